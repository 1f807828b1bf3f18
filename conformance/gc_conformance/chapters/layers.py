"""Layers: the port's own choice of axes, for layers described in words.

    centralize_layer(kind, grad, *, stored, part="weight", groups=1, stack=None, tied=False)

returns `grad` with GC applied where the port would apply it to that parameter of that layer, and `grad` unchanged where
it would not. Build or declare the real layer and ask your library; do not derive the axes from the words. A layer, or a
way of storing it, that the library does not have is `NotImplementedError`.

    kind      what the layer is (table below)
    grad      the gradient of one of its parameters, in your library's own array
    stored    the dimensions of that parameter, in order: `dict(zip(stored.split(), grad.shape))` are its sizes.
              "out" and "in" are what the layer computes and reads; under `groups`, "in" of a convolution and "out" of a
              transposed one are those of one group, as PyTorch stores them
    part      which parameter of the layer, where it has several
    groups    of a convolution
    stack     "scan", "vmap" or "experts": "stack" copies of the layer lie along that dimension
    tied      an embedding that is also the output head

An option at its default is not passed (`stored` always is).

    kind                               part                             stored                          GC over
    linear                                                              out in | in out                 in
    bilinear                                                            out in1 in2                     in1 in2
    conv1d, conv2d, conv3d                                              out in d h w | d h w in out     in d h w
    conv_transpose1d, ..2d, ..3d                                        in out d h w (PyTorch)          in d h w, by group
                                                                        out in h w (Equinox)            in h w
                                                                        h w in out (Flax)               in h w
                                                                        h w out in (Keras, Haiku)       in h w
    depthwise_conv2d                                                    h w in mult (Keras)             h w
    rnn, gru, lstm                     weight_ih, weight_hh, weight_hr  out in (out: all gates)         in
    attention                          in_proj, query, key, value       out in | in heads head_dim      in
                                       out                              out in | heads head_dim out     all but out
                                       bias_k, bias_v                   one one2 dim                    none
    a layer above, stack="scan"..                                       stack and then as above         as above
    any with a fan-in of 1                                              as above                        none
    embedding (also tied)                                               vocab dim                       none
    position_embedding                                                  positions dim | one positions dim   none
    class_token                                                         one one2 dim                    none
    relative_position_table                                             entries heads                   none
    norm_scale, layer_scale                                             channels | channels one one2    none
    bias                                                                out | one out one2 one3 | heads head_dim    none
    linear                             weight_norm.direction            out in                          in
                                       weight_norm.magnitude            out one                         none
                                       spectral_norm.original           out in                          in
                                       orthogonal.original              out in                          none
    unknown (a raw parameter of a module nobody knows)                  a b                             none

1-d kernels are stored with "w" alone, 2-d with "h w", 3-d with "d h w".
"""
