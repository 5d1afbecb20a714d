"""The learner: what people said of replies becomes an adapter, and that is measured."""

import logging

# PEFT imports bitsandbytes whether the base is quantised or not, and it warns of a faster CPU kernel that isn't there
# (which isn't as exact: see learner.nf4). The package comes first, so this is before PEFT.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
