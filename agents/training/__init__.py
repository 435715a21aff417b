"""What an agent learns with: hyper-parameters, the optimiser, metrics, progress, memory."""
