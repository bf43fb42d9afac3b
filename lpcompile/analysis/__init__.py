"""What reads a graph or samples and never changes them: statistics, ranges, regions, costs."""
