"""The language-model arm: architectures written by models behind any server that speaks the OpenAI API."""
