"""The model: a pretrained transformer, fine-tuned and asked in one process; all of torch and transformers is here."""
