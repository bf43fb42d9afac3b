"""What a whole graph costs, node by node: arithmetic by class and width, energy of it, bytes moved. [neseem2024]."""
