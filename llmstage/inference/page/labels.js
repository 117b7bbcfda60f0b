// The labels of the pages in English and Chinese.

const LABELS = {
  en: {
    language: "Language", views: "Ways to use this model", chat: "Chat", write: "Continue a text", try: "Try it", embed: "Compare texts",
    conversation: "Conversation", chat_empty: "Write a message. Enter sends it, Shift+Enter starts a new line, Esc stops a reply.",
    message: "Your message", message_hint: "Message", send: "Send", stop: "Stop", anew: "New conversation",
    settings: "Settings", system: "System message (a change starts a new conversation)", temperature: "Temperature (0: always the most likely token)",
    max_tokens: "Maximum number of tokens", tools: "Tools the model may call: a list of function schemas (JSON)", tools_wrong: "The tools are not a JSON list:",
    call: "Call", result_of: "Result of", reasoning: "Reasoning", you: "You", assistant: "Assistant", sources: "Sources", score: "score",
    stopped: "stopped", cut: "cut at the token limit", tokens: "tokens", seconds: "s", first: "first token after",
    forgotten: "The messages above are no longer read, since the model has a limit of tokens",
    replying: "Writing a reply.", replied: "The reply is complete.", begun: "A new conversation.",
    beginning: "Text to continue", beginning_hint: "Once upon a time", go_on: "Continue",
    more: "More fields", optional: "optional", picture: "Picture", no_answer: "No answer in this text",
    raw: "Reply as JSON", confidence: "confidence", nothing_found: "Nothing found in this text", all: "Show all",
    texts: "Texts, one per line. Each is compared with the first.", texts_hint: "One text per line", compare: "Compare",
    two_texts: "At least two lines are needed.", needed: "is needed", thinking: "One moment …",
    token_title: "This server requires a token", token: "Token", token_wrong: "This token is wrong.",
    token_note: "The browser stores it until this tab is closed.", token_go: "Continue", token_needed: "No request is possible without the token.",
    offline: "The server cannot be reached.", broken: "The reply was cut off: the server has stopped or the connection is lost.",
    again: "Try again", unreadable: "This picture cannot be read.", log_probability: "log-probability", alternatives: "Alternatives",
    monitor: "Monitor", pages: "Pages", model_page: "The model", alerts: "Alerts", topics: "Topics", other_topics: "Topics without a chart",
    no_alerts: "No alert so far.", new_alert: "New alert:", items: "items", negative: "negative", negative_share: "negative share",
    expected: "expected", above: "above the expected share", of_window: "of a window", of_day: "of the last 24 hours", of_week: "of the last 7 days",
    last_item: "time of the last item", late: "too late", bad_rows: "bad rows", watching: "The monitor is running.",
    loading: "The monitor is starting.", loading_long: "The monitor is loading its models. This page will display its counts. Its folder:",
    not_begun: "Nothing has been counted yet, and no monitor is running. This page will display its counts once it runs. Its folder:",
    not_running: "The monitor is not running; the same command with the same folder continues it.", completed: "The input has ended, and all items are counted.",
    failed: "The monitor has stopped:",
    field_text: "Text", field_text_pair: "Second text", field_question: "Question", field_context: "Text that contains the answer",
    field_document: "Text", field_source: "Text", field_prompt: "Beginning of the caption", field_image: "Picture",
    field_caption: "Captions to choose from, one per line", field_tokens: "Words, separated by spaces", field_user: "User", field_item: "Items of the user, one per line, the latest last",
  },
  zh: {
    language: "语言", views: "使用方式", chat: "对话", write: "续写", try: "试一试", embed: "比较文本",
    conversation: "对话内容", chat_empty: "请说点什么。回车发送，Shift+回车换行，Esc 停止回复。",
    message: "您的消息", message_hint: "消息", send: "发送", stop: "停止", anew: "新对话",
    settings: "设置", system: "系统消息（修改后开始新对话）", temperature: "温度（0：取最可能的）",
    max_tokens: "最多词元数", tools: "模型可以调用的工具：函数描述的列表（JSON）", tools_wrong: "工具不是 JSON 列表：",
    call: "调用", result_of: "调用结果：", reasoning: "思考过程", you: "您", assistant: "助手", sources: "来源", score: "得分",
    stopped: "已停止", cut: "达到词元上限", tokens: "个词元", seconds: "秒", first: "首个用时",
    forgotten: "以上内容模型已不再读取：一次能读的词元有限",
    replying: "正在回复。", replied: "回复完毕。", begun: "新对话已开始。",
    beginning: "要续写的文本", beginning_hint: "从前有座山", go_on: "续写",
    more: "更多字段", optional: "可选", picture: "图片", no_answer: "文中没有答案",
    raw: "JSON 格式的回复", confidence: "置信度", nothing_found: "文中未找到任何内容", all: "显示全部",
    texts: "每行一个文本：各行与第一行有多接近？", texts_hint: "每行一个文本", compare: "比较",
    two_texts: "至少需要两行。", needed: "不能为空", thinking: "请稍候……",
    token_title: "此服务器需要令牌", token: "令牌", token_wrong: "令牌不正确。",
    token_note: "令牌只保存在本标签页中，关闭后即清除。", token_go: "继续", token_needed: "没有令牌无法提问。",
    offline: "无法连接服务器。", broken: "回复中断：服务器已停止或连接已断开。",
    again: "重试", unreadable: "无法读取此图片。", log_probability: "对数概率", alternatives: "其他答案",
    monitor: "监控", pages: "页面", model_page: "模型", alerts: "警报", topics: "主题", other_topics: "未绘图的主题",
    no_alerts: "至今没有警报。", new_alert: "新警报：", items: "条目", negative: "负面", negative_share: "负面占比",
    expected: "预期", above: "超出预期", of_window: "单个窗口", of_day: "此前 24 小时", of_week: "此前 7 天",
    last_item: "最新条目的时间", late: "来得太晚", bad_rows: "有误的行", watching: "监控正在运行。",
    loading: "监控正在启动。", loading_long: "监控正在加载模型，统计结果会自动出现在这里。其文件夹：",
    not_begun: "尚未统计任何条目，也没有监控在运行；一旦开始，结果会显示在这里。其文件夹：",
    not_running: "监控未在运行；用同一文件夹再次执行命令即可继续。", completed: "输入已结束，全部已统计。",
    failed: "监控已停止：",
    field_text: "文本", field_text_pair: "第二个文本", field_question: "问题", field_context: "包含答案的文本",
    field_document: "文本", field_source: "原文", field_prompt: "描述的开头", field_image: "图片",
    field_caption: "备选描述，每行一个", field_tokens: "词语，以空格分隔", field_user: "用户", field_item: "用户已有的物品，每行一个，最近的在最后",
  },
};

const STORAGE_KEY = "llmstage.language";

let language = preferredLanguage();

/** The language of an earlier choice, else the browser's. */
function preferredLanguage() {
  let stored = null;
  try {
    stored = localStorage.getItem(STORAGE_KEY);
  } catch { /* the browser may deny storage */ }
  if (stored in LABELS) return stored;
  return (navigator.languages ?? [navigator.language]).map((tag) => tag.slice(0, 2)).find((tag) => tag in LABELS) ?? "en";
}

/** The label of a key in the current language. */
export const translate = (key) => LABELS[language][key];
export const currentLanguage = () => language;

/** The label of a field of a row, else its name. */
export const fieldName = (field) => translate(`field_${field}`) ?? field;

/** Set the labels of all elements that name one. Called at the start and for each change of the language. */
export function applyLabels() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = translate(element.dataset.text);
  for (const element of document.querySelectorAll("[data-field]")) element.textContent = fieldName(element.dataset.field);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", translate(element.dataset.label));
  for (const element of document.querySelectorAll("[data-hint]")) element.placeholder = translate(element.dataset.hint);
}

export function setUpLanguageSelect(select) {
  select.value = language;
  select.addEventListener("change", () => {
    language = select.value;
    try {
      localStorage.setItem(STORAGE_KEY, language);
    } catch { /* without storage the choice ends with the page */ }
    applyLabels();
  });
}
