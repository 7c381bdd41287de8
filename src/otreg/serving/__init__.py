"""`otreg serve`: a model behind OpenAI's transcription API.

An upload becomes a recording (`uploads`), a recording pieces (`recognizer`), and pieces of parallel
requests batches (`batching`); `formats` writes the answers and `app` is the web application.

Import from the modules: the web packages are the extra `serve`.
"""
