"""What a joint step consists of, as rows of the tables; imports nothing, so that --help is quick."""

#: the paper's Table 7: the rows that must be there even where nothing has been counted
PAPER = {
    "image_encoder": "Visual encoder",
    "text_encoder": "Text encoder",
    "fusion": "Cross-modal fusion",
    "head": "Classification head",
    "explanation": "Grad-CAM++, R(M) of Eq. 11",
    "revision": "Reveal-to-Revise",
}
ALL = {
    **PAPER,
    "generator": "Generator",
    "critic": "Critic",
    "penalty": "Gradient penalty",
    "descriptor": "Bias descriptor and R_bias",
}
