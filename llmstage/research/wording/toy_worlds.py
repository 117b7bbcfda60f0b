"""Sentences on toy worlds with a known phase change: grokking, and the formation of induction heads."""

from __future__ import annotations

SENTENCES = {
    "of_seed": ("seed {seed}: {text}", "种子 {seed}：{text}"),
    # Grokking
    "not_learned": (
        "not memorised in {steps} steps (training accuracy {accuracy:.3f}).",
        "{steps} 步内没有记住训练数据（训练准确率 {accuracy:.3f}）。",
    ),
    "no_generalisation": (
        "memorised by step {learned}, held-out accuracy {accuracy:.3f} after {steps} steps (chance {chance:.3f}): no generalisation{moved}.",
        "第 {learned} 步时已记住训练数据，{steps} 步后留出准确率为 {accuracy:.3f}（随机水平 {chance:.3f}）：没有泛化{moved}。",
    ),
    "still_moving": (
        "; its key frequencies still gain weight, so more steps may do it",
        "；但关键频率的比重仍在上升，训练更多步或可泛化",
    ),
    "prompt_generalisation": (
        "memorised by step {learned}, generalised by step {understood}: no clear delay.",
        "第 {learned} 步时记住训练数据，第 {understood} 步时泛化：谈不上延迟。",
    ),
    "delayed_generalisation": (
        "delayed generalisation: hidden progress from step ~{hidden}. Memorised by step {learned}, held-out pairs right from step {understood} on; in between, excluded loss rises while the score does not change.",
        "延迟泛化：约从第 {hidden} 步起有隐藏的进展。第 {learned} 步时记住训练数据，第 {understood} 步起答对留出的数对；其间排除损失不断上升，而得分毫无显示。",
    ),
    "delayed_unseen": (
        "delayed generalisation: memorised by step {learned}, held-out pairs right from step {understood} on; excluded loss shows no progress before the score does.",
        "延迟泛化：第 {learned} 步时记住训练数据，第 {understood} 步起答对留出的数对；排除损失并未先于得分显示进展。",
    ),
    "interaction_by_layer": (
        "share of each layer's state that is in the combination of a and b: {where}. It says where the whole exceeds its parts, not whether by a rule or by memory.",
        "各层状态中由 a 与 b 的组合承载的份额：{where}。它说明整体在何处超出部分之和，但不说明靠的是规则还是死记。",
    ),
    "one_seed": (
        "One seed: when it generalises differs between seeds by a factor of two or more; stage.toy_worlds.seeds=3.",
        "只有一个种子：何时泛化在种子之间可相差一倍以上；请设 stage.toy_worlds.seeds=3。",
    ),
    "right_answers": ("Right answers", "答对的比例"),
    "training_pairs": ("training pairs", "训练数对"),
    "held_out_pairs": ("held-out pairs", "留出数对"),
    "hidden_progress": ("Hidden progress", "隐藏的进展"),
    "excluded_loss": ("excluded loss", "排除损失"),
    "restricted_loss": ("restricted loss", "受限损失"),
    "key_frequencies": ("Key frequencies", "关键频率"),
    "key_share": ("share of logit variance", "占 logit 方差的份额"),
    "gini": ("Gini of the embeddings", "嵌入的基尼系数"),
    "share": ("share", "份额"),
    "nats": ("nats", "nat"),
    "step": ("step", "步数"),
    # Induction heads
    "repeated_logp": ("log-probability of repeated tokens", "重复词元的对数概率"),
    "along_steps": ("{verdict} along the steps: {text}", "沿训练步数的判定为“{verdict}”：{text}"),
    "heads_found": (
        "head {head} (layer.head) attends to the token before; without it repeated tokens cost {cost:+.2f} nats. Heads {heads} attend to the token that followed the last time: together {together:+.2f} nats, {share:.0%} of what all heads give; any one alone at most {alone:+.2f}, because each replaces the others.",
        "注意力头 {head}（层.头）看前一个词元；去掉它，重复词元的损失变化 {cost:+.2f} nat。注意力头 {heads} 找到上次其后出现的词元：一并去掉为 {together:+.2f} nat，占所有头贡献的 {share:.0%}；单独去掉任何一个至多 {alone:+.2f}，因为它们互相替补。",
    ),
    "fastest_steps": (
        "context helps fastest at step ~{context}, prefix matching rises fastest at step ~{prefix}.",
        "上下文的帮助在第 {context} 步附近增长最快，前缀匹配在第 {prefix} 步附近上升最快。",
    ),
    "one_layer": (
        "no induction head (best prefix matching {prefix:.2f}); repeated tokens are right in {accuracy:.0%}. One layer cannot match what came before a token; a second one can.",
        "没有归纳头（前缀匹配最高 {prefix:.2f}）；重复词元答对 {accuracy:.0%}。单层无法匹配一个词元之前的内容，有第二层才行。",
    ),
    "no_head_yet": (
        "no induction head yet (best prefix matching {prefix:.2f}); train longer.",
        "尚无归纳头（前缀匹配最高 {prefix:.2f}）；请延长训练。",
    ),
    "plan_repeated": (
        "repeated tokens are right in {accuracy:.0%}, {loss:.2f} nats a token",
        "重复词元答对 {accuracy:.0%}，{loss:.2f} nat/词元",
    ),
    "plan_no_match": (
        "no head matches: best prefix matching {best:.2f}, from {border} on it is one",
        "没有匹配的注意力头：前缀匹配最高 {best:.2f}，达到 {border} 才算",
    ),
    "plan_no_previous": (
        "no head looks at the token before: best {best:.2f}, from {border} on it is one",
        "没有看前一词元的注意力头：最高 {best:.2f}，达到 {border} 才算",
    ),
    "plan_one_layer": (
        "one layer: a head that matches would read what a layer below wrote of the token before",
        "只有一层：能匹配的注意力头需要读取下一层写下的关于前一词元的内容",
    ),
    "plan_loss_fell": (
        "the loss fell by {fell:.2f} nats in the last quarter",
        "最后四分之一的训练中损失下降了 {fell:.2f} nat",
    ),
    "plan": ("plan: {action}. {why}.{hint}", "计划：{action}。{why}。{hint}"),
    "plan_hint": (
        " stage.toy_worlds.grow=true adds a layer below and trains on.",
        "stage.toy_worlds.grow=true 会在下方加一层并继续训练。",
    ),
    "growth": (
        "with {layers} layers (the new one below; it moved logits by {moved:.1e} when it was added) and {steps} steps more: repeated tokens right in {before:.1%} before, {after:.1%} after; as many steps without the layer: {same:.1%}.",
        "增至 {layers} 层（新层在下方；加层时 logit 变动 {moved:.1e}）并再训练 {steps} 步：重复词元答对由 {before:.1%} 变为 {after:.1%}；不加层训练同样步数：{same:.1%}。",
    ),
    "layer_added": ("A layer is added at step {step:g}", "第 {step:g} 步加入一层"),
    "copying_appears": ("Copying appears", "复制能力的出现"),
    "best_prefix": ("best prefix matching", "最高前缀匹配"),
    "best_previous": ("best look one back", "最高前一词元注意力"),
    "accuracy": ("accuracy", "准确率"),
    "repeated_loss": ("Loss of repeated tokens", "重复词元的损失"),
    "loss": ("loss", "损失"),
    "late_minus_early": ("late minus early loss", "后段损失减前段损失"),
}
