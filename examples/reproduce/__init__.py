"""The paper's experiments, each as a recipe file, and one training program: `python -m examples.reproduce`.

Read in this order: `recipe` (what a recipe says), `training` (the loop), `data` (published formats, checked before
training), `models` (a ResNet with its variants), `checkpoint` (a run that is killed goes on as if it had not been),
`table` (the paper's numbers beside one's own). `coco` is torchvision's detection training with our optimizer in it.
"""
