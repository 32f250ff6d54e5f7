"""The pretraining family: static embeddings, a vector for each word and from it one for each sentence."""
