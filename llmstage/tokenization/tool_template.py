"""Give a chat template that knows no tools the means to write them: descriptions, calls and results as text in tags.

Templates that read `tools` are used as they are. Others (SmolLM2, Gemma 2, Llama 2, base models, models trained here) would drop tools
and calls without a word. So a prelude is put before such a template. It rewrites the messages of a conversation with tools, in the
form of Hermes 2 Pro, which Qwen 2.5 has too, and the template then writes them as it writes other texts:

    system     the tools, between <tools> and </tools>
    assistant  each call, as JSON between <tool_call> and </tool_call>
    tool       each result, between <tool_response> and </tool_response>, in a message of the user

A conversation without tools is rendered as before. The prelude is saved with the template, so that `apply_chat_template()` and other
servers render what the model was trained on.
"""

from __future__ import annotations

import threading
from typing import Any

from llmstage.tokenization.template_rendering import Message, TemplateRefused, render

PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_function",
        "description": "probe",
        "parameters": {
            "type": "object",
            "properties": {
                "probe_key": {"type": "string", "description": "probe"},
                "other_key": {"type": "string", "description": "probe"},
            },
            "required": ["probe_key"],
        },
    },
}
"""A tool whose name no template contains."""
LOCK = threading.Lock()
QUESTION: Message = {"role": "user", "content": "probe_question"}

TOOLS_TEXT = (
    "You can call these functions:\\n<tools>' ~ ns.tools ~ '\\n</tools>\\nTo call a function, write its name and its arguments as JSON:"
    '\\n<tool_call>\\n{"name": "...", "arguments": {...}}\\n</tool_call>'
)
PRELUDE_BEGIN, PRELUDE_END = "{#- tools in tags -#}", "{#- end of tools in tags -#}"
PRELUDE = (
    PRELUDE_BEGIN + "{%- if tools or messages | selectattr('tool_calls') | list or messages | selectattr('role', 'equalto', 'tool')"
    " | list -%}"
    "{%- set ns = namespace(messages=[], text='', tools='', results='', target='@TARGET@') -%}"
    # The tools: a text of the system message, or of the first user message where the template refuses system messages.
    "{%- for tool in tools or [] -%}{%- set ns.tools = ns.tools ~ '\\n' ~ (tool | tojson) -%}{%- endfor -%}"
    "{%- if ns.tools -%}{%- set ns.tools = '" + TOOLS_TEXT + "' -%}{%- endif -%}"
    "{%- if ns.tools and ns.target == 'system' and messages[0]['role'] != 'system' -%}"
    "{%- set ns.messages = [{'role': 'system', 'content': ns.tools}] -%}{%- set ns.tools = '' -%}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- set ns.text = message['content'] or '' -%}"
    # Results that follow each other are one message of the user, since some templates want the roles to alternate.
    "{%- if message['role'] == 'tool' -%}"
    "{%- set ns.results = ns.results ~ ('\\n' if ns.results else '') ~ '<tool_response>\\n' ~ ns.text ~ '\\n</tool_response>' -%}"
    "{%- if loop.last or loop.nextitem['role'] != 'tool' -%}"
    "{%- set ns.messages = ns.messages + [{'role': 'user', 'content': ns.results}] -%}{%- set ns.results = '' -%}"
    "{%- endif -%}"
    "{%- else -%}"
    "{%- for call in message['tool_calls'] or [] -%}"
    "{%- set ns.text = ns.text ~ ('\\n' if ns.text else '') ~ '<tool_call>\\n{\"name\": ' ~ (call['function']['name'] | tojson)"
    " ~ ', \"arguments\": ' ~ (call['function']['arguments'] | tojson) ~ '}\\n</tool_call>' -%}"
    "{%- endfor -%}"
    "{%- if ns.tools and message['role'] == 'system' -%}"
    "{%- set ns.text = ns.text ~ '\\n\\n' ~ ns.tools -%}{%- set ns.tools = '' -%}"
    "{%- elif ns.tools and ns.target == 'user' and message['role'] == 'user' -%}"
    "{%- set ns.text = ns.tools ~ '\\n\\n' ~ ns.text -%}{%- set ns.tools = '' -%}"
    "{%- endif -%}"
    "{%- set ns.messages = ns.messages"
    " + [dict(message.items() | rejectattr(0, 'equalto', 'tool_calls') | list, content=ns.text)] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = ns.messages -%}"
    "{%- endif -%}" + PRELUDE_END
)  # fmt: skip
"""Jinja code that replaces `messages`; it writes nothing. `@TARGET@`: system or user."""
TAGS = "<tools>\n</tools>\n<tool_call>\n</tool_call>\n<tool_response>\n</tool_response>"
"""The tags, for the training of a tokenizer."""


def reads_tools(tokenizer: Any) -> bool:
    """Return whether the chat template writes the tools that it is given."""
    for messages in ([QUESTION], [{"role": "system", "content": "probe"}, QUESTION]):
        try:
            return "probe_function" in render(tokenizer, messages, tools=[PROBE_TOOL], generation_prompt=True)
        except TemplateRefused:
            continue
    return False


def uses_tools(messages: list[Message], tools: Any = None) -> bool:
    """Return whether a conversation has tools, calls or results of tools."""
    return bool(tools) or any(message["role"] == "tool" or "tool_calls" in message for message in messages)


def enable_tools(tokenizer: Any) -> bool:
    """Make sure that the chat template writes tools; return whether the prelude had to be added.

    Raise TemplateRefused where the template writes tools in neither.
    """
    with LOCK:  # rows are encoded in several threads
        template = tokenizer.get_chat_template()
        if PRELUDE_BEGIN in template or reads_tools(tokenizer):
            return False
        # Other threads may render in between; conversations without tools are rendered alike by all these templates.
        for role in ("system", "user"):
            tokenizer.chat_template = PRELUDE.replace("@TARGET@", role) + template
            if reads_tools(tokenizer):
                return True
        tokenizer.chat_template = template
    raise TemplateRefused("the chat template takes no tools, and no system or user message with their descriptions")


def without_prelude(template: str) -> str:
    """Return the chat template that the model came with."""
    return template.rpartition(PRELUDE_END)[2]
