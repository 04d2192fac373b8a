"""Read a document, find its sentences, cut it into training segments, and convert character spans to token spans."""
