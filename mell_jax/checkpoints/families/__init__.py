"""These are the families of decoders that are read, by architecture."""

from collections.abc import Mapping

from mell_jax.checkpoints.families.cohere import COHERE, COHERE2
from mell_jax.checkpoints.families.cwm import CWM
from mell_jax.checkpoints.families.exaone4 import EXAONE4
from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.families.gemma import GEMMA
from mell_jax.checkpoints.families.gemma2 import GEMMA2
from mell_jax.checkpoints.families.gemma3 import GEMMA3
from mell_jax.checkpoints.families.glm import GLM, GLM4
from mell_jax.checkpoints.families.granite import GRANITE, GRANITE_HYBRID
from mell_jax.checkpoints.families.helium import HELIUM
from mell_jax.checkpoints.families.internlm3 import INTERNLM3
from mell_jax.checkpoints.families.llama import LLAMA
from mell_jax.checkpoints.families.ministral import MINISTRAL
from mell_jax.checkpoints.families.mistral import MISTRAL
from mell_jax.checkpoints.families.nemotron import NEMOTRON
from mell_jax.checkpoints.families.olmo import OLMO2, OLMO3
from mell_jax.checkpoints.families.phi3 import PHI3
from mell_jax.checkpoints.families.qwen import QWEN2, QWEN3
from mell_jax.checkpoints.families.seed_oss import SEED_OSS
from mell_jax.checkpoints.families.smollm3 import SMOLLM3
from mell_jax.checkpoints.families.stablelm import STABLELM
from mell_jax.checkpoints.families.starcoder2 import STARCODER2

FAMILIES: Mapping[str, Family] = {  # a model is saved as the first that fits
    family.architecture: family
    for family in (
        *(LLAMA, MISTRAL, QWEN2, QWEN3, PHI3, GRANITE, GRANITE_HYBRID, GLM, GLM4),
        *(GEMMA, GEMMA2, GEMMA3),
        *(OLMO2, OLMO3, COHERE, COHERE2, NEMOTRON),
        *(STABLELM, STARCODER2, SEED_OSS, MINISTRAL, CWM, INTERNLM3),
        *(SMOLLM3, EXAONE4, HELIUM),
    )
}
ARCHITECTURES: Mapping[str, Family] = {
    name: family
    for family in FAMILIES.values()
    for name in (family.architecture, *family.also)
}
"""Every name that a `config.json` may give a family."""
