"""One document, asked four ways: in the prompt, by retrieval, in a memory behind `lift serve`, and by both."""
