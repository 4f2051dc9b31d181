"""Any server that speaks OpenAI's API, as a node that offers no evidence of its own (docs/networks/openai.md)."""
