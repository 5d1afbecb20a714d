"""A plugin for vLLM that `hone up` puts on its path; vLLM finds it by the entry point in the folder beside this."""
