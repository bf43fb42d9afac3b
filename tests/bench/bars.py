"""Figures of other tools that the tables stand beside, as data.

Source: the zoo's BASELINES.md of November 2026: onnxruntime 1.31.1, onnxsim 0.8.1, AIMET-ONNX 2.42.0, Quark
0.13.0, each calibrated with the entry's samples; SQNR of the first output over 64 evaluation samples. The
best row with weights and activations at 8 bits; agreement is that of ONNX Runtime's own int8.
"""

BEST_W8A8 = {
    "tiny_resnet8_cifar10": (25.95, "onnxsim w8a8_full"),
    "tiny_dscnn_kws": (33.19, "ort w8a8_pct"),
    "tiny_autoencoder_toycar": (28.93, "ort w8a8_minmax"),
    "squeezenet_imagenet": (23.74, "ort w8a8_minmax"),
    "mobilenetv2_imagenet": (25.42, "ort w8a8_minmax"),
    "resnet20_cifar10": (29.21, "ort w8a8_minmax"),
    "minilm_stsb": (17.01, "ort w8a8_dynamic"),
    "char_gpt_shakespeare": (40.48, "ort w8a8_dynamic"),
}
AGREEMENT = {"mobilenetv2_imagenet": 0.980, "resnet20_cifar10": 0.981}
TOP1_DROP, AIM_AGREEMENT, MOST_SAMPLES = 0.005, 0.985, 400  # top-1 limits bind from 400 samples on
DROPS = {"perplexity": 0.003, "spearman_cosine": 0.003, "psnr_y": 0.1}  # perplexity: relative
