"""The runtime for methods on Stable Diffusion's UNet, and the methods on it."""
