"""The formats of OpenAI and Anthropic under `/v1`, for programs that know them: the same road as every other door."""
