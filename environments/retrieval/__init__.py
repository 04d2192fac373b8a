"""Find the parts of a long text that a question is about: chunking, ranking, search in hops, order, evidence recall."""
