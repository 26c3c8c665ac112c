"""Intel Gaudi (HPU) through PyTorch: the decoder as a step of fixed shapes, on a device or emulated on the CPU.

    device.py       what of PyTorch's HPU plugin is here, found out without failing; who compiles and runs the step
    operator.py     convert_from_uint4: the device's, by its schema, and the same arithmetic on the CPU; known answers
    weights.py      quantised weights as the operator takes them, packed as long as nobody multiplies
    source.py       the weights of a checkpoint, or of a converted folder, read one by one
    buckets.py      the few shapes that steps may have
    cache.py        keys and values in flat buffers, written by index
    static_ops.py   the verbs of `ovround.models.ops` over those
    step.py         one step of the model, and the greedy loop that stays on the device
    selftest.py     what to run first on a machine with Gaudi

Only `ovround.runtime.engines.hpu` imports this room, and only when the device is asked for: it needs torch.
"""
