"""What is loaded: model folders, diffusers and transformers modules, face analysers. No Ray, HTTP or SQL."""
