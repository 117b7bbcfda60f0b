"""Sentences on curves: names and meanings of verdicts, the sentence of each, and those of a table of scores."""

from __future__ import annotations

NAMES = {
    "below_resolution": ("below resolution", "低于分辨率"),
    "no_change": ("no change", "没有变化"),
    "seed_lottery": ("seed lottery", "种子抽签"),
    "break": ("break", "突变"),
    "explained_by_parts": ("explained by parts", "可由部分解释"),
    "metric_artefact": ("metric artefact", "指标假象"),
    "smooth": ("smooth", "平滑"),
    "undecided": ("undecided", "无法判定"),
}
"""Verdicts, as readers see them."""

MEANINGS = {
    "break": ("An abrupt change that a continuous score shows as well, and two thirds of the models where there are several.", "连续得分上同样出现的突变；有多个模型时，三分之二的模型都有。"),
    "explained_by_parts": ("An abrupt change that the sub-skills predict when multiplied.", "由各子技能相乘即可预言的突变。"),
    "metric_artefact": ("The score jumps, the probability of the right answer does not: the scoring rule makes the jump.", "得分跳变，但正确答案的概率没有跳变：跳变由计分规则造成。"),
    "seed_lottery": ("Some seeds succeed and others fail: look at single seeds, not at their mean.", "有的种子成功、有的失败：应看单个种子而非均值。"),
    "undecided": ("The data do not decide it; the sentence names what would.", "数据不足以判定；说明中写明还缺什么。"),
    "smooth": ("A gradual change: smaller models can do a little of what larger ones can do.", "渐变：大模型会的，小模型会一点。"),
    "no_change": ("Neither size nor training moves the score.", "规模与训练都不改变得分。"),
    "below_resolution": ("Not distinguishable from chance with this number of items.", "以这样的题目数无法与随机水平区分。"),
}  # fmt: skip
"""Verdicts for a reader who knows none of the papers."""

SENTENCES = {
    "none_breaks": (
        "No ability appears abruptly here, once the metric, the loss and the number of points are accounted for.",
        "在考虑了指标、损失与点数之后，这里没有任何能力是突然出现的。",
    ),
    "no_verdict": (
        "These data do not show whether an ability appears abruptly: no curve allows a verdict. The limits below name what is missing.",
        "这里还不能判断能力是否突然出现：没有一条曲线足以下结论。所缺的条件见下文。",
    ),
    "some_break": (
        "Abrupt even under a continuous metric: {names}.",
        "即使在连续指标下也发生突变：{names}。",
    ),
    "among": (
        "{metric}, {same} of {num} models (here {model}): {text}",
        "{metric}，{num} 个模型中的 {same} 个（此处 {model}）：{text}",
    ),
    "below_counted": (
        "Curves that never rise clearly above chance: {num}, among them {told}.",
        "{num} 条曲线从未明显高于随机水平，其中 {told}。",
    ),
    "below_resolution": (
        "below resolution ({seen}): {items} items cannot distinguish this score from chance {chance}.",
        "低于分辨率（{seen}）：{items} 个题目无法把该得分与随机水平 {chance} 区分开。",
    ),
    "below_resolution_unknown": (
        "below resolution: never clearly above chance {chance} (best {best}, {z} standard errors).",
        "低于分辨率：从未明显高于随机水平 {chance}（最好 {best}，{z} 个标准误）。",
    ),
    "no_change": ("no change along {axis}: a constant fits best.", "沿 {axis} 没有变化：常数拟合最好。"),
    "seed_lottery": (
        "seeds disagree: {high} of {num} succeed; the mean over seeds describes none of them.",
        "种子结果不一致：{num} 个中有 {high} 个成功；种子均值不代表其中任何一个。",
    ),
    "break": (
        "changes abruptly even under the continuous metric, at {axis} {at} (ΔAICc {delta}, {num} points).",
        "即使用连续指标也发生突变，位置 {axis} {at}（ΔAICc {delta}，{num} 个点）。",
    ),
    "slight_bend": (
        "A bend at {axis} {at} fits better (ΔAICc {delta}), but moves the curve by at most {share} of its range: nothing abrupt.",
        "在 {axis} {at} 处带折点的形状拟合更好（ΔAICc {delta}），但与平滑曲线相差最多为其范围的 {share}：不算突变。",
    ),
    "explained_by_parts": (
        "changes abruptly at {axis} {at}, and its parts explain it: the log residual over them is {low} to {high}.",
        "在 {axis} {at} 处突变，但可由其组成部分解释：对数残差为 {low} 到 {high}。",
    ),
    "metric_artefact": (
        "smooth under the continuous metric; the metric itself causes the apparent jump in {metric} (B {B}, p {p}).",
        "在连续指标下是平滑的；{metric} 上看似的跳变由指标本身造成（B {B}，p {p}）。",
    ),
    "metric_artefact_length": (
        "smooth under the continuous metric; the apparent jump in {metric} is what p^L predicts (L = {length}; B {B}, p {p}).",
        "在连续指标下是平滑的；{metric} 上看似的跳变正是 p^L 所预言的（L = {length}；B {B}，p {p}）。",
    ),
    "smooth_continuous": (
        "smooth under the continuous metric: {shape} in {axis} fits best (ΔAICc {delta}).",
        "在连续指标下是平滑的：沿 {axis} 以{shape}拟合最好（ΔAICc {delta}）。",
    ),
    "smooth": (
        "smooth: {shape} in {axis} fits best, no break is needed (ΔAICc {delta}).",
        "平滑：沿 {axis} 以{shape}拟合最好，不需要断点（ΔAICc {delta}）。",
    ),
    "too_few_points": (
        "too few points ({num} < {least}) to tell a break from curvature; {more} more are needed.",
        "点太少（{num} < {least}），无法区分突变与弯曲；还需要 {more} 个点。",
    ),
    "no_continuous": (
        "{metric} changes abruptly at {axis} {at} (ΔAICc {delta}), but there is no continuous score of the same items: a log-probability, Brier score or loss would tell a break from a metric artefact.",
        "{metric} 在 {axis} {at} 处突变（ΔAICc {delta}），但缺少同一批题目的连续得分：需要对数概率、Brier 分或损失才能区分真实突变与指标假象。",
    ),
    "not_replicated": (
        "changes abruptly at {axis} {at} in this curve (ΔAICc {delta}), but not after correction over {families} curves (q {q}).",
        "该曲线在 {axis} {at} 处突变（ΔAICc {delta}），但对 {families} 条曲线校正后不显著（q {q}）。",
    ),
    "not_agreed": (
        "changes abruptly at {axis} {at} in this curve (ΔAICc {delta}), but only {same} of {models} models do so.",
        "该曲线在 {axis} {at} 处突变（ΔAICc {delta}），但 {models} 个模型中只有 {same} 个如此。",
    ),
    "counted": ("Curves judged: {num} ({counts}).", "共判定 {num} 条曲线（{counts}）。"),
    "lens": (
        "Held-out loss ({loss}) orders the scores better than {others}: {examples}. Verdicts on training curves use it as axis.",
        "留出损失（{loss}）比{others}更能排列各得分：{examples}。训练曲线的判定以它为横轴。",
    ),
    "no_lens": (
        "No loss column: verdicts use {axis} as axis. A loss on the same corpus and tokenizer for each checkpoint (stage.columns.loss) is the better one.",
        "没有损失列：判定以 {axis} 为横轴。若每个检查点有同一语料、同一分词器的损失（stage.columns.loss）会更可靠。",
    ),
    "model_tokens_lens": (
        "The loss axis is {loss}. It compares models only where they share corpus and tokenizer; across families it is not valid, so each model is judged on its own.",
        "损失轴取自 {loss}。只有语料与分词器相同的模型才可比；不同系列之间不成立，因此每个模型各自判定。",
    ),
    "mixed_loss": (
        "Families {families} need not share a tokenizer: losses per token are not compared across them, and each family is a curve of its own.",
        "系列 {families} 不一定使用同一分词器：不比较它们的每词元损失，每个系列单独成曲线。",
    ),
    "precursor": (
        "{model}: at {axis} {at}, {continuous} has already made {share} of its whole change while {metric} is still {score}.",
        "{model}：在 {axis} {at} 处，{continuous} 已完成其全部变化的 {share}，而 {metric} 仍为 {score}。",
    ),
    "null": (
        "{model}: {raw} of {num} {group} scores lie above the fixed chance {chance} at p < .05, {bh} after Benjamini-Hochberg, {bonferroni} after Bonferroni. A fixed chance is a poor null: calibrate it on the items (answer-letter bias).",
        "{model}：{num} 个 {group} 得分中有 {raw} 个在 p < .05 下高于固定随机水平 {chance}，Benjamini-Hochberg 校正后 {bh} 个，Bonferroni 校正后 {bonferroni} 个。固定随机水平不是好的零假设：应在题目上校准（选项字母偏好）。",
    ),
    "forecast": (
        "{metric}, forecast with {model} left out: {said} against {was} seen (off by {error}); there is no forecast beyond 4 times the compute.",
        "{metric}：留出 {model} 的预测为 {said}，实际为 {was}（误差 {error}）；不对超过 4 倍计算量的情形作预测。",
    ),
    "forecast_next": (
        "{metric}, at {axis} {at} (at most 4 times the compute of the largest): {said} ± {error}.",
        "{metric}：在 {axis} {at} 处（不超过最大模型计算量的 4 倍）预测为 {said} ± {error}。",
    ),
    "chinchilla": (
        "L = {E} + {A}/N^{alpha} + {B}/D^{beta} on {num} points (objective {objective}); compute-optimal N grows as C^{exponent} [{low}, {high}].",
        "在 {num} 个点上 L = {E} + {A}/N^{alpha} + {B}/D^{beta}（目标函数 {objective}）；计算最优的 N 按 C^{exponent} [{low}, {high}] 增长。",
    ),
    "broken_law": (
        "{metric} breaks near {axis} {at} (broken power law, RMSLE {rmsle} on {num} points against {power} of a power law with a constant).",
        "{metric} 在 {axis} {at} 附近出现断点（分段幂律，{num} 个点上 RMSLE {rmsle}；带常数的幂律为 {power}）。",
    ),
    "broken_held_out": (
        "The last {held} points, held out: RMSLE {error} of the broken law, {power} of the power law.",
        "留出的最后 {held} 个点：分段幂律 RMSLE {error}，幂律 {power}。",
    ),
    "one_model": (
        "A ladder of one model: no statement about scale. Rows of more models would give one.",
        "只有一个模型：无法就规模下结论；需要更多模型的数据。",
    ),
    "short_ladder": (
        "Curves with too few points (fewer than {least}) to tell a break from curvature: {num}.",
        "{num} 条曲线的点太少（至少需要 {least} 个），无法区分突变与弯曲。",
    ),
    "no_twin": (
        "Curves that jump and have no continuous score of the same items: {num}; it is open whether the ability or the metric jumps. Log-probabilities of these items would decide it.",
        "{num} 个得分出现跳变但没有对应的连续得分：究竟是能力还是指标在跳变尚无法判定；需要同一批题目的对数概率。",
    ),
    "few_items": (
        "{names}: about {num} items, fewer than {least}; a claim on them needs more.",
        "{names}：约 {num} 个题目，少于 {least} 个；要下结论需要更多题目。",
    ),
    "no_errors": (
        "Metrics without standard errors (a column <metric>_stderr): {num}; their scatter is estimated from the curves themselves.",
        "{num} 个指标没有标准误（列 <指标>_stderr）：其波动由曲线本身估计。",
    ),
    "chance_assumed": (
        "Chance levels are those of the tasks' rules ({levels}); from published scores alone they cannot be calibrated on the items.",
        "随机水平取自任务规则（{levels}）；仅凭公布的得分无法在题目上校准。",
    ),
    "no_seeds": (
        "One seed a model: how far another seed would differ is estimated from the scatter around each curve, not measured.",
        "每个模型只有一个种子：换种子的差异由曲线周围的波动估计，并非实测。",
    ),
    "words_column": (
        "Column '{column}' contains words such as '{word}' and is left out.",
        "列“{column}”的内容是文字（如“{word}”），已略去。",
    ),
    "empty_column": ("Column '{column}' is empty and is left out.", "列“{column}”为空，已略去。"),
    "scores_missing": (
        "{column}: {gone} of {num} scores are missing{names}, the first at {place}; its curves use the others, and a jump where a score is missing cannot be seen.",
        "{column}：{num} 个得分中缺 {gone} 个{names}，首个在 {place}；其曲线只依据其余得分，缺失之处若有跳变则看不到。",
    ),
}

SHAPES = {
    "flat": ("a constant", "常数"), "line": ("a straight line", "直线"), "power": ("a power law", "幂律"),
    "exponential": ("an exponential", "指数"), "shifted_power": ("a power law with a start", "带起点的幂律"),
    "sigmoid": ("a wide S-curve", "宽 S 形曲线"),
}  # fmt: skip
