"""What people agree on, of each two replies that they held against each other and of each prompt that they corrected:
what most of them say, each heard once, and nothing where as many say the opposite."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from learner.batch import Demonstration, Pair, TokenIds
from learner.called import DISAGREEMENT, SAID_AGAIN
from learner.snapshot import Judgement
from learner.votes import Vote

OUTVOTED = "a correction that other people's judgements contradict"
TWICE = "the same correction was given twice"
OTHER_CORRECTION = "a correction where other people, or more of them, wrote another one"

PairKey = tuple[TokenIds, TokenIds, TokenIds]  # prompt, and the two replies in order of their ids
Agreed = dict[PairKey, tuple[frozenset[str], Pair | None]]  # conversations, and the pair (None: no agreement)


def _key(prompt: TokenIds, first: TokenIds, second: TokenIds) -> PairKey:
    return (prompt, *((first, second) if first <= second else (second, first)))


def agreed_pairs(votes: Sequence[Vote], set_aside: Counter[str]) -> Agreed:
    """One pair for each two replies that were held against each other: what most voters say, or nothing.

    In order of the newest vote on each.
    """
    by_pair: defaultdict[PairKey, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_pair[_key(vote.prompt, vote.first, vote.second)].append(vote)
    agreed: Agreed = {}
    for key, cast in sorted(by_pair.items(), key=lambda item: item[1][-1].position):
        by_voter = {vote.voter: vote for vote in cast}  # in order of position: a voter's newest stays
        set_aside[SAID_AGAIN] += len(cast) - len(by_voter)
        counted = list(by_voter.values())
        pair = agree(counted)
        set_aside[DISAGREEMENT] += 0 if pair else len(counted)
        agreed[key] = frozenset(name for vote in counted for name in vote.conversation_ids), pair
    return agreed


def agree(votes: Sequence[Vote]) -> Pair | None:
    """What votes on the same two replies come to: their sum decides; a tie only when nobody prefers either."""
    prompt, first, second = _key(votes[0].prompt, votes[0].first, votes[0].second)
    total = sum(vote.strength if vote.first == first else -vote.strength for vote in votes)
    tie = all(vote.strength == 0 for vote in votes)
    if total == 0 and not tie:
        return None
    chosen, rejected = (first, second) if total >= 0 else (second, first)
    return Pair(
        prompt,
        chosen,
        rejected,
        margin=abs(total) / len(votes),
        tie=tie,
        conversation_id=votes[-1].conversation_ids[0],
        feedback_ids=tuple(dict.fromkeys(name for vote in votes for name in vote.feedback_ids)),
        group=votes[-1].group,
        weight=max(vote.weight for vote in votes),
    )


def agreed_demonstrations(
    given: Sequence[tuple[Judgement, Demonstration]],
    agreed: Agreed,
    held: frozenset[str],
    set_aside: Counter[str],
) -> list[Demonstration]:
    """One correction of a prompt: each person's newest counts, and of several what most people wrote, or the newest;
    none that the consensus holds to be worse than what it corrects. In the order in which they were last given.

    What was given on both sides of the split is learned, not measured.
    """
    newest = {(judgement.caller, one.prompt_token_ids): (judgement, one) for judgement, one in given}
    set_aside[SAID_AGAIN] += len(given) - len(newest)
    written: defaultdict[TokenIds, defaultdict[TokenIds, list[tuple[int, Demonstration]]]]
    written = defaultdict(lambda: defaultdict(list))
    for judgement, one in newest.values():
        prompt, reply = one.prompt_token_ids, one.reply_token_ids
        _, pair = agreed.get(_key(prompt, reply, judgement.replies[0].token_ids), ((), None))
        contested = judgement.replies[0].complete and judgement.replies[0].token_ids != reply
        if contested and (pair is None or pair.chosen != reply):
            set_aside[OUTVOTED] += 1
        else:
            written[prompt][reply].append((judgement.position, one))
    kept = []
    for replies in written.values():
        same = max(replies.values(), key=lambda same: (len(same), same[-1][0]))
        set_aside[TWICE] += len(same) - 1
        set_aside[OTHER_CORRECTION] += sum(map(len, replies.values())) - len(same)
        taught = [one for _, one in same if one.conversation_id not in held]
        kept.append((same[-1][0], (taught or [one for _, one in same])[0]))
    return [one for _, one in sorted(kept, key=lambda one: one[0])]
