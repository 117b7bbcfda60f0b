"""Small chat templates, one for each way in which models write tool calls."""

from __future__ import annotations

TOOLS = "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
HEAD = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
TAIL = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
EACH = "{% for c in m.tool_calls or [] %}"

HERMES = (
    TOOLS + HEAD + "{{ m.content or '' }}" + EACH + "{% if m.content or not loop.first %}{{ '\n' }}{% endif %}"
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}" + TAIL
)  # fmt: skip
THINKING = (  # as Qwen3: the last turn has a think block, an empty one where there is no reasoning
    HERMES.replace(
        "{{ m.content or '' }}",
        "{% if m.role == 'assistant' and loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
        "{{ m.content or '' }}",
    )
)
LLAMA = (
    TOOLS + HEAD + "{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}'
    "{% else %}{{ m.content }}{% endif %}" + TAIL
)  # fmt: skip
MISTRAL = (  # wants ids of nine characters, as the real one
    TOOLS + HEAD + "{% if m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}{% if c.id | length != 9 %}"
    "{{ raise_exception('ids have nine characters') }}{% endif %}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]{% else %}{{ m.content }}{% endif %}" + TAIL
)  # fmt: skip
MISTRAL_NEW = (
    TOOLS + HEAD + "{{ m.content or '' }}" + EACH
    + "[TOOL_CALLS]{{ c.function.name }}[CALL_ID]{{ c.id }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}" + TAIL
)  # fmt: skip
DEEPSEEK = (  # wants the arguments as JSON text
    TOOLS + HEAD + "{{ m.content or '' }}{% if m.tool_calls %}<｜calls▁begin｜>" + EACH
    + "<｜call▁begin｜>function<｜sep｜>{{ c.function.name + '\n```json\n' + c.function.arguments + '\n```<｜call▁end｜>' }}"
    "{% endfor %}<｜calls▁end｜>{% endif %}" + TAIL
)  # fmt: skip
PARAMETERS = (  # as Qwen3-Coder
    TOOLS + HEAD + "{{ m.content or '' }}" + EACH + "<tool_call>\n<function={{ c.function.name }}>\n"
    "{% for key, value in c.function.arguments | items %}<parameter={{ key }}>\n"
    "{{ value if value is string else value | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}" + TAIL
)  # fmt: skip
PYTHONIC = (
    TOOLS + HEAD + "{{ m.content or '' }}{% if m.tool_calls %}<|call_start|>[" + EACH + "{{ c.function.name }}("
    "{% for key, value in c.function.arguments | items %}{{ key }}={{ value | tojson }}{% if not loop.last %}, {% endif %}"
    "{% endfor %}){% if not loop.last %}, {% endif %}{% endfor %}]<|call_end|>{% endif %}" + TAIL
)  # fmt: skip
PLAIN = HEAD + "{{ m.content }}" + TAIL
"""Knows no tools."""
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}" + PLAIN
NO_MARK = (
    TOOLS
    + HEAD
    + "{{ m.content or '' }}"
    + EACH
    + "call {{ c.function.name }}: {{ c.function.arguments }}{% endfor %}"
    + TAIL
)
"""Calls that cannot be told from an answer."""

WITH_TOOLS = {
    "hermes": HERMES, "thinking": THINKING, "llama": LLAMA, "mistral": MISTRAL, "mistral_new": MISTRAL_NEW,
    "deepseek": DEEPSEEK, "parameters": PARAMETERS, "pythonic": PYTHONIC, "plain": PLAIN, "no_system": NO_SYSTEM,
}  # fmt: skip
