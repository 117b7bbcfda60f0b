"""Sentences on an improvement: why a model was promoted or not, before and after, the guard, what was tried."""

from __future__ import annotations

SENTENCES = {
    "improved": (
        "improved: {name} gains on the weak slices and nothing else is lost.",
        "已改进：{name} 在薄弱切片上有提升，其余没有损失。",
    ),
    "guard_refused": ("not improved: guard refused ({why}).", "未改进：守卫拒绝（{why}）。"),
    "none_passed": ("not improved: no candidate passed ({why}).", "未改进：没有候选模型通过（{why}）。"),
    "old_stays": ("{reason} The old model stays.", "{reason}保留原模型。"),
    "old_stays_see": ("{reason} The old model stays. See {path}.", "{reason}保留原模型。详见 {path}。"),
    "why_guard_refused": ("guard refused ({why})", "守卫拒绝（{why}）"),
    "why_no_gain": ("the weak slices did not gain ({gain})", "薄弱切片没有提升（{gain}）"),
    "why_no_better": (
        "no better than as many steps on the old mix ({gain})",
        "不优于按原配比训练同样步数（{gain}）",
    ),
    # Before and after
    "slice_gained": (
        "{slice}: {metric} {before:.3f} → {after:.3f} with {name} ({gain}, n = {n}{mcnemar}){beside}.",
        "{slice}：{name} 使 {metric} 由 {before:.3f} 变为 {after:.3f}（{gain}，n = {n}{mcnemar}）{beside}。",
    ),
    "mcnemar": (", McNemar p = {p:.2g}", "，McNemar p = {p:.2g}"),
    "control_note": (
        "; as many steps on the old mix gave {same:.3f}",
        "；按原配比训练同样步数为 {same:.3f}",
    ),
    "nothing_lost": ("Nothing else was lost: {families}.", "其余没有损失：{families}。"),
    "group_unchanged": (
        "{name} {change} (n = {n}, a loss of {margin:.3f} is excluded)",
        "{name} {change}（n = {n}，可排除 {margin:.3f} 的损失）",
    ),
    "loss_changed": (
        "The loss of all other rows changed by {rise:+.4f} nats a token; the limit is {limit:g}.",
        "其余各行的损失变化了 {rise:+.4f} nat/词元；至多允许上升 {limit:g}。",
    ),
    "before_after_title": ("Before and after ({metric})", "改进前后（{metric}）"),
    "before_after_columns": (
        "rows|n|before|after: {name}|more of the same|gain|p (McNemar)|gain above more of the same",
        "行|n|改进前|改进后：{name}|原配比对照|提升|p（McNemar）|相对对照的提升",
    ),
    "all_other_rows": ("all other rows", "其余各行"),
    # The guard
    "guard_rows_needed": ("; it takes {needed:,}", "；需要 {needed:,} 行"),
    "guard_rows_if_so": (
        "; {needed:,} rows would exclude it if the change stays what it is",
        "；若变化保持不变，{needed:,} 行即可排除",
    ),
    "guard_few": (
        "guard cannot decide at n = {n}: fewer than {least} rows",
        "n = {n} 时守卫无法判定：少于 {least} 行",
    ),
    "guard_unresolved": (
        "guard cannot decide at n = {n}: these rows resolve no loss below {margin:.3f}",
        "n = {n} 时守卫无法判定：这些行分辨不出小于 {margin:.3f} 的损失",
    ),
    "guard_not_excluded": (
        "a loss of {margin:.3f} or more is not excluded (change {change})",
        "无法排除 {margin:.3f} 或更大的损失（变化 {change}）",
    ),
    "guard_loss_rose": (
        "loss of all other rows: {rise:+.3f} nats a token, more than {limit:g}",
        "其余各行的损失：{rise:+.3f} nat/词元，超过 {limit:g}",
    ),
    "guard_title": ("Guard", "守卫"),
    "guard_columns": (
        "family|n|change|loss excluded|p (Holm)|verdict",
        "行组|n|变化|可排除的损失|p（Holm）|判定",
    ),
    "guard_loss": ("loss, nats a token", "损失（nat/词元）"),
    "passed": ("passed", "通过"),
    "refused": ("refused", "拒绝"),
    # What was tried
    "tried_title": ("What was tried", "试过的做法"),
    "tried_columns": (
        "model|share of weak rows|weak rows|other rows|verdict",
        "模型|薄弱行占比|薄弱行|其余行|判定",
    ),
    "pilot": ("pilot {share:g}", "先导 {share:g}"),
    "pilot_taken": ("taken", "采用"),
    "pilot_admissible": ("admissible", "可行"),
    "pilot_loses": ("loses elsewhere", "别处退步"),
    "promoted": ("promoted", "采纳"),
    # What limits the conclusion
    "more_rows_decide": (
        "{name}: {why}. More rows in data.test would decide it.",
        "{name}：{why}。data.test 有更多行才能判定。",
    ),
    "several_candidates": (
        "{num} candidates had the same test on the same rows, which favours the last one.",
        "{num} 个候选模型在同一批行上接受同一检验，这有利于最后一个。",
    ),
    "no_pilot_rows": (
        "No row was left to compare pilots on, so the middle share was taken.",
        "没有剩余的行可供比较先导训练，因此取了中间的占比。",
    ),
    "no_control": (
        "There was no control (stage.improve.control=false): a gain may be that of more training.",
        "没有对照（stage.improve.control=false）：提升可能只来自更多训练。",
    ),
    "no_more_replay": (
        "more_replay was not tried: target_share=1 replays nothing.",
        "没有尝试 more_replay：target_share=1 不含任何回放。",
    ),
    "few_to_compare": (
        "{slice}: {n} rows to compare on are too few for a separate claim.",
        "{slice}：可供比较的只有 {n} 行，不足以单独下结论。",
    ),
    "pool_rows": ("the training pool", "训练池"),
    "new_rows": ("stage.improve.data", "新样例（stage.improve.data）"),
    "doubles_choosing": (
        "{num} of the rows that choose the share are also in {place} and were left out.",
        "用于选择的行中有 {num} 行也出现在{place}里，已剔除。",
    ),
    "doubles_final": (
        "{num} of the rows of the final comparison are also in {place} and were left out.",
        "最终比较的行中有 {num} 行也出现在{place}里，已剔除。",
    ),
    "structure_suggested": (
        "The diagnosis of {slices} suggests a larger model. stage.improve.structure=apply adds blocks that do not change the output at first, and trains all variants with them.",
        "对 {slices} 的诊断需要更大的模型。stage.improve.structure=apply 会加入起初不改变任何输出的层，并让所有训练都带上它们。",
    ),
    "structure_grown": (
        "Blocks were added for {slices}, {where}: all variants start from a model of {layers} layers with the same output.",
        "为 {slices} 加入了新层（{where}）：所有训练都从一个 {layers} 层、输出与原来相同的模型开始。",
    ),
    "blocks_below": ("below the only block", "在原有的唯一一层之下"),
    "blocks_behind": ("after the last one", "在最后一层之后"),
}
