"""What is particular to vLLM and LiteLLM: their command lines and environments, what their answers mean, their caches.

``vllm`` and ``litellm`` are pure, except ``vllm.installed_options``. ``inside`` holds files that run in the engines'
own environments and import nothing of ours.
"""
