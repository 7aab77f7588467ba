"""vLLM's failures that are about the model: the hub, its files, its code, its architecture, its weights.

Messages as vLLM 0.32, transformers,
huggingface_hub and safetensors raise them; a few of older versions where those differ.
"""

from __future__ import annotations

import re

from llm_supervisor.diagnosis.pattern import Rank, Values, row


def _is_path(values: Values) -> bool:
    return values.get("model", "").startswith(("/", "./", "../", "~"))


def _from_url(values: Values) -> Values:
    found = re.search(
        r"://[^/\s]{1,200}/(?:api/(?:models|datasets|spaces)/)?([\w.\-]{1,100}/[\w.\-]{1,100})", values["url"]
    )
    return {"repo": found[1]} if found else {}


_REMOTE = (
    "It runs Python code from the model's repository: read it, then decide. To allow it, set trust-remote-code: true "
    "for this model."
)
_TOKEN = "Accept the licence on the model's page, then set HF_TOKEN to a token that may read it."

MODEL = (
    row(
        "package_missing", "modeling file requires",
        r"requires the following packages that were not found in your environment: (?P<packages>[\w\-., "
        r"]{1,200}?)\. Run",
        permanent=True,
        summary="the model's code needs packages that are not installed: {packages}",
        advice="Install {packages} into vLLM's environment, or choose a model that vLLM has code of its own for.",
    ),
    row(
        "model_code_broken", "",
        r"^(?P<error>(?:ImportError: cannot import name|AttributeError|TypeError|NameError|KeyError|"
        r"IndexError|AssertionError|ValueError|NotImplementedError)[^\n]{0,300})",
        permanent=True, phase="start", frames=r"transformers_modules/[^\n]{0,400}\n?[^\n]{0,400}$",
        summary="the code that comes with the model fails: {error}",
        advice=(
            "It is the model's code (in transformers_modules/), not vLLM's: it was written for another version of "
            "transformers. Set code-revision to one that fits, or drop trust-remote-code where vLLM has the "
            "architecture itself."
        ),
    ),
    row(
        "model_folder_missing", "Repo id must", r"Repo id must .{0,200}?: '(?P<model>[^'\n]{1,300})'",
        permanent=True, when=_is_path,
        summary="the model's folder {model} does not exist",
        advice=(
            "Check the path of `model:` and that its disk is mounted: {model} must hold config.json and the "
            "weights."
        ),
    ),
    row(
        "repo_not_found", "Repo id must", r"Repo id must .{0,200}?: '(?P<model>[^'\n]{1,300})'",
        permanent=True,
        summary="{model} is neither a folder nor the name of a repository",
        advice="Write `model:` as OWNER/NAME, or as the path of a folder that exists.",
    ),
    row(
        "gated_repo", "gated repo", r"Cannot access gated repo for url (?P<url>\S{1,400}?)\.?\s",
        permanent=True, derive=_from_url,
        summary=("the model {repo} is gated and the hub refuses the token (or there is none)", "the model is gated"),
        advice=(_TOKEN, "If {repo} is in the cache already, HF_HUB_OFFLINE=1 or its path needs no token."),
    ),
    row(
        "gated_repo", "gated repo",
        r"You are trying to access a gated repo\.\s{1,4}Make sure to have access to it at "
        r"https://huggingface\.co/(?P<repo>\S{1,200}?)\.?\s",
        permanent=True,
        summary="the model {repo} is gated and the hub refuses the token (or there is none)",
        advice=(_TOKEN, "If {repo} is in the cache already, HF_HUB_OFFLINE=1 or its path needs no token."),
    ),
    row(
        "gated_repo", "is a gated repository", r"(?P<repo>\S{1,200}) is a gated repository",
        permanent=True,
        summary="the model {repo} is gated and the hub refuses the token (or there is none)",
        advice=_TOKEN,
    ),
    row(
        "repo_not_found", "Repository Not Found for url",
        r"(?:(?P<status>\d{3}) Client Error[\s\S]{0,300}?)?Repository Not Found for url: "
        r"(?P<url>\S{1,400}?)\.?(?:\s|$)",
        permanent=True, derive=_from_url,
        summary=("the hub knows no model {repo}", "the hub does not know the model"),
        advice=(
            "Check the name {repo} first: the hub answers {status} for a repository that does not exist, too.",
            "If the name is right, it is private: set HF_TOKEN to a token that may read it.",
        ),
    ),
    row(
        "gated_repo", "gated repo", r"Cannot access gated repo for url (?P<url>\S{1,400}?)\.?\s{0,2}$",
        permanent=True, derive=_from_url, where="line", phase="start",
        summary=("the model {repo} is gated and the hub refuses the token (or there is none)", "the model is gated"),
        advice=_TOKEN,
    ),
    row(
        "repo_not_found", "Repository Not Found for url",
        r"Repository Not Found for url: (?P<url>\S{1,400}?)\.?\s{0,2}$",
        permanent=True, derive=_from_url, where="line", phase="start",
        summary=("the hub knows no model {repo}", "the hub does not know the model"),
        advice="Check the name first; if it is right, it is private: set HF_TOKEN to a token that may read it.",
    ),
    row(
        "repo_not_found", "not exists on either", r"Repo (?P<repo>\S{1,200}) not exists on either",
        permanent=True,
        summary="ModelScope knows no model {repo}",
        advice="Check the name {repo}, and `source:`.",
    ),
    row(
        "repo_not_found", "is not a valid model identifier",
        r"(?P<repo>\S{1,300}) is not a local folder and is not a valid model identifier",
        permanent=True,
        summary="the hub knows no model {repo}",
        advice="Check the name {repo} first, and if it is private, HF_TOKEN.",
    ),
    row(
        "revision_not_found", "",
        r"(?P<revision>\S{1,200}) is not a valid git identifier|Invalid rev id: (?P<id>\S{1,200})|"
        r"Revision Not Found for url",
        permanent=True,
        derive=lambda values: {"revision": values["id"]} if values.get("id") else {},
        summary=(
            "the model {model} has no revision {revision}", "the model has no revision {revision}",
            "the model has no such revision",
        ),
        advice="Correct or drop `revision:`; it names no branch, tag or commit of the model.",
    ),
    row(
        "hub_token_invalid", "",
        r"Invalid user token|Invalid credentials in Authorization header|User Access Token \S{1,60} "
        r"is expired",
        permanent=True,
        summary="the hub does not know HF_TOKEN",
        advice="Make a new token on the hub and set HF_TOKEN, or remove it if the model is public.",
    ),
    row(
        "hub_offline", "outgoing traffic has been disabled", permanent=True,
        summary=(
            "the model {model} is not in the cache, and HF_HUB_OFFLINE forbids to download it",
            "offline, not cached",
        ),
        advice=(
            "Download it once without HF_HUB_OFFLINE (llm-supervisor pull), or give the path of a folder.",
            "Check that HF_HOME is the one that {model} was downloaded to.",
        ),
    ),
    row(
        "hub_offline", "offline mode is enabled", r"Cannot reach (?P<url>\S{1,300}): offline mode is enabled",
        permanent=True,
        summary=(
            "the model {model} is not in the cache, and HF_HUB_OFFLINE forbids to download it",
            "offline, not cached",
        ),
        advice="Download it once without HF_HUB_OFFLINE (llm-supervisor pull), or give the path of a folder.",
    ),
    row(
        "hub_rate_limited", "429",
        r"429 (?:Client Error|Too Many Requests)[\s\S]{0,200}?(?:for url:? (?P<url>\S{1,300}))?|We had to rate "
        r"limit your IP",
        permanent=False,
        summary="the hub refuses further requests for now (429)",
        advice=(
            "Wait some minutes; restarts make it worse. When the model is in the cache, HF_HUB_OFFLINE=1 asks "
            "nothing."
        ),
    ),
    row(
        "hub_unavailable", "",
        r"(?P<status>5\d\d) Server Error[^\n]{0,200}?for url:? (?P<url>https?://\S{1,300})|Server error "
        r"'(?P<code>5\d\d) "
        r"[^'\n]{1,60}' for url|CAS service error|(?P<xet>Data processing error): (?!I/O)",
        permanent=False, derive=lambda values: {"status": values["code"]} if values.get("code") else {},
        summary=("the hub answers {status}", "the hub's storage does not answer"),
        advice="Nothing to do here but to wait. When the model is in the cache, HF_HUB_OFFLINE=1 asks nothing.",
    ),
    row(
        "tls_certificate", "CERTIFICATE_VERIFY_FAILED", permanent=True,
        summary="the certificate of the hub (or of the proxy before it) is not trusted",
        advice="Set SSL_CERT_FILE to your proxy's certificate authority in the environment of this program.",
    ),
    row(
        "proxy_refuses", "Tunnel connection failed",
        r"Tunnel connection failed: (?P<status>40[137]) (?P<why>[^'\n]{1,60})",
        permanent=True,
        summary="the proxy refuses the way to the hub: {status} {why}",
        advice="Put user and password into HTTPS_PROXY, or have the proxy allow the hub.",
    ),
    row(
        "network", "",
        r"IncompleteRead\(|Connection broken|Consistency check failed: file should be of size|peer closed connection "
        r"without sending complete message|Response ended prematurely|Connection (?:reset by peer|aborted)",
        permanent=False, phase="start", frames=
        r"huggingface_hub|transformers/|requests/|httpx|httpcore|urllib3|modelscope",
        summary="the download of the model was cut",
        advice="It is continued at the next start. If it repeats, look at the network, or llm-supervisor pull.",
    ),
    row(
        "network", "",
        r"Error retrieving (?:file list|safetensors)(?![^\n]{0,400}retrying \d)[^\n]{0,200}(?:name resolution|"
        r"Name or service|unreachable|"
        r"timed out|"
        r"Max retries|Connection|No route|client has been closed|offline)",
        permanent=False, phase="start", where="line",
        summary=("the hub cannot be reached, and the model {model} is not in the cache", "the hub cannot be reached"),
        advice=(
            "Check name resolution, route and HTTPS_PROXY of this machine.",
            "When the model is in the cache, HF_HUB_OFFLINE=1 starts without the hub.",
        ),
    ),
    row(
        "network", "We couldn't connect to", r"We couldn't connect to '(?P<host>https?://[^'\n]{1,200})' to load",
        permanent=False,
        summary=("{host} cannot be reached, and the model {model} is not in the cache", "{host} cannot be reached"),
        advice=(
            "Check name resolution, route and HTTPS_PROXY of this machine.",
            "When the model is in the cache, HF_HUB_OFFLINE=1 starts without the hub.",
        ),
    ),
    row(
        "network", "trying to locate the file on the Hub", permanent=False,
        summary=("the hub cannot be reached, and the model {model} is not in the cache", "the hub cannot be reached"),
        advice=(
            "Check name resolution, route and HTTPS_PROXY of this machine.",
            "When the model is in the cache, HF_HUB_OFFLINE=1 starts without the hub.",
        ),
    ),
    row(
        "network", "",
        r"(?:Temporary failure in name resolution|Name or service not known|No address associated with "
        r"hostname|Could not connect to the endpoint URL|Network is unreachable|No route to host|Max retries "
        r"exceeded with "
        r"url|(?:Connect|Read|Pool)Timeout:|ProxyError|(?:Connect|Connection|Read)Error: (?!.{0,80}cancel))",
        permanent=False, rank=Rank.COARSE, phase="start",
        frames=r"huggingface_hub|transformers/|requests/|httpx|httpcore|urllib3|modelscope|botocore|google/|azure/",
        summary="the hub cannot be reached",
        advice=(
            "Check name resolution, route and HTTPS_PROXY. When the model is in the cache, HF_HUB_OFFLINE=1 "
            "starts without."
        ),
    ),
    row(
        "cache_not_writable", "when downloading",
        r"PermissionError at (?P<path>\S{1,300}) when downloading (?P<repo>\S{1,200})",
        permanent=True,
        summary="the cache cannot be written: {path}",
        advice="Let this program's user own {path}, or set HF_HOME to a folder that it may write.",
    ),
    row(
        "trust_remote_code_needed", "custom code",
        r"The repository (?P<repo>\S{1,300}) (?:contains custom code which|references custom code)",
        permanent=True,
        summary="the model {repo} comes with code of its own, and it is not allowed to run",
        advice=_REMOTE,
    ),
    row(
        "trust_remote_code_needed", "requires you to execute", permanent=True,
        summary=(
            "the model {model} comes with code of its own, and it is not allowed to run",
            "the model's code may not run",
        ),
        advice=_REMOTE,
    ),
    row(
        "trust_remote_code_needed", "--trust-remote-code",
        r"Failed to load the (?P<part>model config|tokenizer|processor)\. If",
        permanent=True, rank=Rank.COARSE,
        summary=(
            "the {part} of {model} needs code of the model's own, or a newer transformers",
            "its {part} cannot be loaded",
        ),
        advice=_REMOTE,
    ),
    row(
        "unsupported_architecture", "are not supported for now",
        r"Model architectures \[(?P<architecture>[^\]\n]{1,300})\] are not supported for now",
        permanent=True,
        summary="this vLLM has no architecture {architecture}",
        advice="Upgrade vLLM, or choose a model that it supports; `architectures` stands in the model's config.json.",
    ),
    row(
        "unsupported_architecture", "does not recognize this architecture",
        r"has model type `(?P<architecture>[^`\n]{1,100})` but Transformers does not recognize",
        permanent=True,
        summary="the installed transformers does not know the model type {architecture}",
        advice=(
            "Upgrade vLLM (it brings the transformers that it was tested with), or check `model_type` in "
            "config.json."
        ),
    ),
    row(
        "unsupported_architecture", "only supports versions",
        r"(?P<architecture>\w{1,60}) only supports versions? (?P<versions>[^\n]{1,200}?)\. Got version: "
        r"(?P<version>[^\n]{1,40})",
        permanent=True,
        summary="this vLLM does not know version {version} of {architecture}",
        advice="Upgrade vLLM; this one knows {versions}.",
    ),
    row(
        "unsupported_architecture", "KeyError: '", r"KeyError: '(?P<architecture>[a-z][a-z0-9_\-]{1,60})'",
        permanent=True, frames=r"configuration_auto\.py __getitem__", rank=Rank.COARSE,
        summary="the installed transformers does not know the model type {architecture}",
        advice="Upgrade vLLM (it brings the transformers that it was tested with).",
    ),
    row(
        "unsupported_architecture", "was supported in vLLM until",
        r"Model architecture (?P<architecture>\S{1,100}) was supported in vLLM until v(?P<version>[\w.]{1,20})",
        permanent=True,
        summary="this vLLM has dropped the architecture {architecture}",
        advice="Use vLLM {version} or older for it.",
    ),
    row(
        "unsupported_architecture", "not supported in-tree anymore",
        r"Model architecture (?P<architecture>\S{1,100}) is not supported in-tree[\s\S]{0,60}?plugin at "
        r"(?P<url>\S{1,200})",
        permanent=True,
        summary="this vLLM has no architecture {architecture} of its own",
        advice="Install the plugin from {url} into vLLM's environment.",
    ),
    row(
        "unsupported_architecture", "Transformers",
        r"(?:Cannot find model module\. |The Transformers implementation of )'(?P<architecture>[^'\n]{1,100})' is not",
        permanent=True,
        summary="neither vLLM nor transformers can run the architecture {architecture}",
        advice="Upgrade vLLM, or choose a model that it supports.",
    ),
    row(
        "model_config_broken", "Unrecognized model in", r"Unrecognized model in (?P<path>\S{1,300}?)\. Should have a",
        permanent=True,
        summary="config.json of {path} does not say what the model is",
        advice="Download the model again: `model_type` is missing in {path}/config.json.",
    ),
    row(
        "model_config_broken", "is not a valid JSON file",
        r"config file at '(?P<path>[^'\n]{1,300})' is not a valid JSON",
        permanent=True,
        summary="{path} is not JSON: a broken download, or a slip of an editor",
        advice="Delete {path} and download it again.",
    ),
    row(
        "model_config_missing", "does not appear to have a file named",
        r"(?P<path>\S{1,300}) does not appear to have a file named (?P<file>\S{1,100}?)\.?(?:\s|$)",
        permanent=True,
        summary="{path} has no {file}",
        advice="Check that `model:` names the folder that holds {file} itself, and that the download was complete.",
    ),
    row(
        "model_config_missing", "Invalid repository ID or local directory",
        r"Invalid repository ID or local directory specified: '(?P<model>[^'\n]{1,300})'",
        permanent=True, rank=Rank.COARSE,
        summary="{model} is no folder with a config.json, and no repository either",
        advice="Check `model:`; the folder {model} must exist and hold config.json (or params.json).",
    ),
    row(
        "model_config_missing", "No supported config format found",
        r"No supported config format found in (?P<model>\S{1,300})|Could not detect config format for no config "
        r"file found",
        permanent=True, rank=Rank.COARSE,
        summary=("{model} has no configuration that vLLM can read", "the model has no configuration"),
        advice="Check `model:`; the folder {model} must exist and hold config.json (or params.json).",
    ),
    row(
        "model_inspection_failed", "failed to be inspected",
        r"Model architectures \[(?P<architecture>[^\]\n]{1,300})\] failed",
        permanent=True, rank=Rank.SYMPTOM,
        summary="vLLM could not import its own code for {architecture}",
        advice="The cause is in the first traceback of the log, of a process that only imports the model's module.",
    ),
    row(
        "package_missing", "You need to have", r"You need to have (?P<package>[\w\-]{2,60})(?: or \w{1,60})? installed",
        permanent=True,
        summary="{package} is not installed, which the model's tokenizer needs",
        advice="Install {package} into vLLM's environment, or a model with a tokenizer.json.",
    ),
    row(
        "tokenizer_missing", "Can't load tokenizer for", r"Can't load tokenizer for '(?P<path>[^'\n]{1,300})'",
        permanent=True,
        summary="{path} has no tokenizer that transformers can load",
        advice="Download the tokenizer's files into {path}, or set `tokenizer:`.",
    ),
)  # fmt: skip

WEIGHTS = (
    row(
        "truncated_weights", "Error while deserializing header",
        r"Error while deserializing header: (?P<detail>[^\n]{1,120})",
        permanent=True,
        summary=("a file of weights of {model} is cut off or no safetensors at all", "a file of weights is cut off"),
        advice=(
            "Delete the broken file and download it again; a restart never heals it.",
            "It is number {shard} in the order of their names.",
            "A file of about 130 bytes is a git-lfs pointer: fetch the real one with git lfs pull.",
        ),
    ),
    row(
        "truncated_weights", "",
        r"(?:Weights only load failed|invalid load key|PytorchStreamReader failed (?P<detail>[^\n]{1,120})|"
        r"unexpected EOF, expected \d{1,15} more "
        r"bytes|HeaderTooLarge|InvalidHeaderDeserialization|MetadataIncompleteBuffer)",
        permanent=True,
        summary=("a file of weights of {model} is cut off", "a file of weights is cut off"),
        advice=("Delete the broken file and download it again; a restart never heals it.", "It is number {shard}."),
    ),
    row(
        "weights_missing", "Cannot find any",
        r"Cannot find any (?:safetensors )?model weights with `(?P<model>[^`\n]{1,300})`",
        permanent=True,
        summary="{model} has no weights that vLLM can read",
        advice="Check that {model} holds *.safetensors (or *.bin, *.pt) files, and `load-format:`.",
    ),
    row(
        "weights_missing", "referenced in index but missing",
        r"Weight files referenced in index but missing: \{?(?P<files>[^}\n]{1,300})",
        permanent=True,
        summary=("the download of {model} is incomplete: {files}", "the model is incomplete: {files}"),
        advice="Download the missing files: {files}.",
    ),
    row(
        "weights_mismatch", "not initialized from checkpoint",
        r"Following weights were not initialized from checkpoint: \{?(?P<names>[^}\n]{1,200})",
        permanent=True,
        summary=(
            "the weights of {model} do not belong to its config.json",
            "weights and config.json do not belong together",
        ),
        advice="Download model and config.json of one revision. Without a counterpart: {names}.",
    ),
    row(
        "weights_mismatch", "There is no module or parameter named",
        r"There is no module or parameter named '(?P<names>[^'\n]{1,200})'",
        permanent=True,
        summary=(
            "the weights of {model} do not belong to its config.json",
            "weights and config.json do not belong together",
        ),
        advice=(
            "Download model and config.json of one revision; {names} is in the weights only. A newer vLLM may "
            "know it."
        ),
    ),
    row(
        "weights_mismatch", "Attempted to load weight",
        r"Attempted to load weight \((?P<names>[^\n]{1,80}?)\) into parameter",
        permanent=True,
        summary=(
            "the weights of {model} do not have the sizes of its config.json",
            "weights and config.json do not match",
        ),
        advice="Download model and config.json of one revision, and drop hf-overrides that change sizes.",
    ),
)  # fmt: skip

LOADING = (
    row(
        "weights_mismatch", "", r"KeyError: '(?P<names>[\w.]{1,200}\.[\w.]{1,200})'",
        permanent=True, phase="start", frames=r"load_weights[^\n]{0,200}$", rank=Rank.COARSE,
        summary=(
            "the weights of {model} do not belong to its config.json, or this vLLM does not know them",
            "weights and config.json do not belong together",
        ),
        advice=(
            "Download model and config.json of one revision; {names} is in the weights only. If it names scales of a "
            "quantisation, this vLLM does not know that kind of it: upgrade vLLM, or take another one."
        ),
    ),
    row(
        "weights_mismatch", "", r"^(?:AssertionError(?:: |$)|RuntimeError: (?:The size of tensor|shape mismatch|start "
        r"\(\d{1,9}\) \+ length))[^\n]{0,200}",
        permanent=True, phase="start", frames=r"weight_loader[^\n]{0,200}$|load_weights[^\n]{0,200}$|weight_loader_v2",
        rank=Rank.COARSE,
        summary=(
            "the weights of {model} do not have the sizes of its config.json",
            "weights and config.json do not match",
        ),
        advice="Download model and config.json of one revision, and drop hf-overrides that change sizes.",
    ),
)  # fmt: skip

ROWS = MODEL + WEIGHTS + LOADING
