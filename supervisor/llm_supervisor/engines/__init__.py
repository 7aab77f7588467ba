"""What is particular to vLLM and LiteLLM: options to argv and environment, answers to meanings, their environments.

``vllm`` and ``litellm`` are pure; ``install`` makes environments; ``inside`` holds files that run in the engines' own
environments and import nothing of ours.
"""
