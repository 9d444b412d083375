"""How the language model learns from behaviour: small trained parts beside frozen weights.

layers      where in a transformer adapters go; Houlsby's bottleneck
low_rank    LoRA and AdaLoRA by peft
adapters    attach one to train it, write it to a folder, put a folder's on a model
texts       the items' tokens, with spans and fields to leave out
tower       tokens to vectors, with gradients; frozen layers' output is kept
episodes    a user's interactions before and after a moment; smaller shops
popularity  how popular items were at the moment of an episode
losses      posterior, contrastive, binary cross-entropy
objectives  tower and loss as one trainable module; the posterior one
contrastive the softmax over a batch's items
pairs       user and item towers, the recipe of the tutorials
fitting     an epoch of steps; how well what came later is predicted
validation  what vectors are worth where they are served
run         epochs until nothing gets better; the state of a run at rest

Base weights never change: an adapter is a folder of a few MB that names the model it belongs to.
"""
