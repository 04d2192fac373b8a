"""`longthread longlora extend`: a model to a longer window, from data to a report, in stages that resume."""
