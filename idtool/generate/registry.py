"""The kinds of methods by name; plug-ins add theirs through the entry-point group `idtool.methods`."""

from __future__ import annotations

from idtool.generate.method import Method
from idtool.registry import Registry

METHODS: Registry[type[Method]] = Registry(
    "method",
    {
        "copy": "idtool.generate.baselines:Copy",
        "other-identity": "idtool.generate.baselines:OtherIdentity",
        "text-only": "idtool.generate.baselines:TextOnly",
        "paste": "idtool.generate.baselines:Paste",
        "portrait-search": "idtool.generate.portrait_search:PortraitSearch",
        # On stock diffusers.
        "flux": "idtool.generate.flux_text:FluxText",
        "flux-kontext": "idtool.generate.kontext:Kontext",
        "flux2-klein": "idtool.generate.flux2:Klein",
        "flux2-dev": "idtool.generate.flux2:Dev",
        "qwen-image-edit": "idtool.generate.qwen_edit:QwenEdit",
        "uno": "idtool.generate.uno:Uno",
        "ace-plus": "idtool.generate.ace_plus:AcePlus",
        "ip-adapter-faceid": "idtool.generate.ip_adapter:IpAdapterFaceId",
        "instantid": "idtool.generate.instantid:InstantId",
        "arc2face": "idtool.generate.arc2face:Arc2Face",
        # On the FLUX runtime.
        "ominicontrol": "idtool.generate.flux.ominicontrol:OminiControl",
        "dmid": "idtool.generate.flux.dmid:Dmid",
        "instruct-identity": "idtool.generate.flux.instruct_identity:InstructIdentity",
        "regional": "idtool.generate.flux.regional:Regional",
        "pulid": "idtool.generate.flux.pulid:Pulid",
        "infiniteyou": "idtool.generate.flux.infiniteyou:InfiniteYou",
        "dsd": "idtool.generate.flux.dsd:Dsd",
        # On the SD runtime.
        "dynamicid": "idtool.generate.sd.dynamicid:DynamicId",
        "consistentid": "idtool.generate.sd.consistentid:ConsistentId",
        "photomaker": "idtool.generate.sd.photomaker:PhotoMaker",
        "photomaker-v2": "idtool.generate.sd.photomaker:PhotoMakerV2",
        "fastcomposer": "idtool.generate.sd.fastcomposer:FastComposer",
        # Elsewhere: a process in an environment of its own, a service.
        "command": "idtool.generate.command:Command",
        "openai-images": "idtool.generate.http_openai:OpenAiImages",
        "gemini-images": "idtool.generate.http_gemini:GeminiImages",
        # On Qwen-Image-Edit.
        "idglow": "idtool.generate.idglow:IdGlow",
    },
    group="idtool.methods",
)
"""Key `kind` of an entry under `methods` in pipelines.yaml -> class."""
