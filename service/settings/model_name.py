"""What the setting `engine.model` can name: the built-in model, a folder, or a model of the hub."""

NOT_NAMED = "No model is named."
ADVICE = "Name a folder or a model of the hub; the built-in model is called sprout."


def may_be_of_the_hub(model: str) -> bool:
    """Whether a name could be a hub's, such as `gpt2` or `Qwen/Qwen3-0.6B`, and not only a folder's."""
    return not model.startswith((".", "/", "~")) and model.count("/") < 2
