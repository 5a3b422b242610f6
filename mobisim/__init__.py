"""Simulate server-assisted fine-tuning of language models on phones and edge devices."""
