"""Prompts: what they are made from (`load`), their files (`files`), conversations (`chat`)."""
