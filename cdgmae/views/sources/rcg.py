"""View source `rcg`: samples of RCG's representation-conditioned latent diffusion model (paper, Tables 9 and 10)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cdgmae.views.sources.s_ldm import GeneratorSource


class RcgSource(GeneratorSource):
    """Real image + samples of an imported RCG generator; they are drawn as those of an S-LDM."""

    kind: Literal["rcg"] = Field(description="`rcg`: views sampled from an imported RCG generator (paper, Table 9).")
