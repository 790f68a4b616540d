"""OpenAI's image API, so that its SDKs work unchanged: generations, edits and variations."""
