"""Gates for the programs that generate images: diffusers and ComfyUI. None of them is imported before it is there."""
