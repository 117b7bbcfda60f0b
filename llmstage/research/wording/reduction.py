"""Sentences on the parts that explain a score: skills, words, layers, heads."""

from __future__ import annotations

SENTENCES = {
    "nothing_to_explain": (
        "No family rises above chance, so there is no score to explain by its parts.",
        "没有题族高于随机水平，因此没有可用部分来解释的得分。",
    ),
    "decoders_only": (
        "A model of family {kind}: layers and heads are analysed in decoders only.",
        "模型属于 {kind} 一类：只对解码器查看各层与注意力头。",
    ),
    "parts_unresolved": (
        "below resolution: {right:.0f} of {num} right and {foretold:.1f} predicted by the product of the parts: these data do not show whether parts explain it.",
        "低于分辨率：{num} 个中答对 {right:.0f} 个，按部分之积预计 {foretold:.1f} 个：无法判断部分能否解释它。",
    ),
    "parts_explain": (
        "explained by parts: {accuracy:.3f} against {product:.3f} by their product ({where}).",
        "可由部分解释：实际 {accuracy:.3f}，部分之积 {product:.3f}（{where}）。",
    ),
    "composition_gap": (
        "composition gap: {accuracy:.3f} against {product:.3f} by the product ({where}).{gap}",
        "组合差距：实际 {accuracy:.3f}，部分之积 {product:.3f}（{where}）。{gap}",
    ),
    "gap_of_ready": (
        " Of {known} items with every part right, {gap:.0%} are wrong.",
        "在部分全对的 {known} 个题目中，{gap:.0%} 答错。",
    ),
    "more_than_parts": (
        "more than its parts: {accuracy:.3f} against {product:.3f} ({where}): a shortcut or a shared mechanism.",
        "超出部分：实际 {accuracy:.3f}，部分之积 {product:.3f}（{where}）：存在捷径或共用的机制。",
    ),
    "log_residual": (
        "log residual {residual:+.2f} [{low:+.2f}, {high:+.2f}]",
        "对数残差 {residual:+.2f} [{low:+.2f}, {high:+.2f}]",
    ),
    "information": (
        "{family}: the information of two of its parts about it, in bits: redundancy {redundancy:.3f}, unique_1 {unique_1:.3f}, unique_2 {unique_2:.3f}, synergy {synergy:.3f} (of {num} items, upwards biased).",
        "{family}：两个子技能提供的关于它的信息（比特）：冗余 {redundancy:.3f}，独有一 {unique_1:.3f}，独有二 {unique_2:.3f}，协同 {synergy:.3f}（取自 {num} 个题目，估计偏高）。",
    ),
    "no_lens_norm": (
        "The norm before this model's head is not known by name: no logit lens.",
        "无法按名称找到该模型输出头之前的归一化层：不做 logit 透镜。",
    ),
    "lens_of_answer": (
        "{family}: the answer's first token has probability {probability:.2f} at the end; half of it is there from layer {layer} of {layers} on (logit lens).",
        "{family}：答案首个词元在末层的概率为 {probability:.2f}；从第 {layer} 层（共 {layers} 层）起已达其一半（logit 透镜）。",
    ),
    "words_explain": (
        "{family}: words and their places explain {share:.0%} of the last layer's state on held-out prompts (with the states of other prompts: {shuffled:.2f}); their combination explains the rest.",
        "{family}：在留出的提示上，词及其位置可解释末层状态的 {share:.0%}（状态错配到别的提示时：{shuffled:.2f}）；其余在于词的组合。",
    ),
    "heads_too_large": (
        "Heads are not analysed automatically above 50 M parameters ({size:,} here): stage.reduce.heads=on.",
        "参数超过 50 M（此处 {size:,}）时不自动查看注意力头：stage.reduce.heads=on 可开启。",
    ),
    "heads_unnamed": (
        "{model}: its attention heads are not known by name, so none is ablated.",
        "{model}：无法按名称找到注意力头，因此没有去掉任何一个。",
    ),
    "induction_heads": (
        "Repeated random tokens: loss {loss:.2f} nats (a guess: {chance:.2f}). Induction heads {heads} (layer.head) carry {share:.0%} of what all heads give; previous-token head {previous} alone {cost:+.2f} nats.",
        "重复的随机词元：损失 {loss:.2f} nat（随机猜测为 {chance:.2f}）。归纳头 {heads}（层.头）承载所有头贡献的 {share:.0%}；单独去掉前一词元头 {previous} 为 {cost:+.2f} nat。",
    ),
    "no_induction_head": (
        "No induction head: best prefix matching {prefix:.2f}, loss of repeated random tokens {loss:.2f} nats (a guess: {chance:.2f}). It does not copy from its context by matching.",
        "没有归纳头：前缀匹配最高 {prefix:.2f}，重复随机词元的损失为 {loss:.2f} nat（随机猜测为 {chance:.2f}）。它不靠匹配从上下文中复制。",
    ),
}
