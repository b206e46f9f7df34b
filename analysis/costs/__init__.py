"""What a joint step costs, counted: floating-point operations, kernels and memory, without data and without a GPU.

`meter` counts what a piece of code executes, `networks` builds what a configuration trains without weights or
downloads, `step` takes a joint step apart, `formulas` is Eq. 12.
"""
