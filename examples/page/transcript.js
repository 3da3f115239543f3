// The conversation as it grows: what the user said, partials included, what the bot says, and
// how long the user waited for it.

// The stages of a turn as people know them, by the names that Pipecat's observer gives its parts.
const STAGES = {
  endpointing_wait: "pause",
  turn_detection: "pause",
  transcription: "hearing",
  llm_inference: "thinking",
  awaiting_speakable_text: "thinking",
  sentence_aggregation: "thinking",
  speech_synthesis: "speaking",
};
const ORDER = ["pause", "hearing", "thinking", "speaking", "travel"];
const NAMES = {
  pause: "waiting for the end of your turn",
  hearing: "hearing",
  thinking: "thinking",
  speaking: "speaking",
  travel: "network and buffers",
};

export class Transcript {
  #list;
  #heard = null; // the user's turn while it grows
  #answer = null; // the bot's, while it may be interrupted
  #segments = new Map(); // what the bot says, by id
  #waits = [];

  constructor(list) {
    this.#list = list;
  }

  /** What the user says or types; a partial is replaced by what follows it. */
  hear(text, final) {
    this.#heard ??= { ...this.#add("you", "You"), finals: [] };
    const { bubble, finals } = this.#heard;
    if (final) finals.push(text);
    bubble.replaceChildren(finals.join(" "), ...(final ? [] : [" ", span("partial", text)]));
    this.#show();
  }

  /** The user's turn is over; noise that came to nothing leaves no trace. */
  heardAll() {
    if (!this.#heard) return;
    if (!this.#heard.finals.length) this.#heard.item.remove();
    this.#heard = null;
    this.#answer = null;
  }

  /** A segment of the bot's answer, and how far it has been spoken. */
  say({ text, segment_id: id, spoken_status: status, spoken_progress: progress }) {
    if (!this.#segments.has(id)) {
      this.heardAll();
      this.#answer ??= this.#add("bot", "Bot");
      const segment = span("segment");
      this.#answer.bubble.append(this.#answer.bubble.hasChildNodes() ? " " : "", segment);
      this.#segments.set(id, segment);
    }
    const rest = status === "completed" ? "" : (progress?.remaining_text ?? "");
    const spoken = rest ? (progress?.accumulated_text ?? "") : text;
    this.#segments
      .get(id)
      .replaceChildren(spoken, ...(rest ? [spoken ? " " : "", span("unspoken", rest)] : []));
    this.#show();
  }

  /** The user cut in. */
  interrupted() {
    this.#answer?.item.append(note("interrupted"));
    this.#answer = null;
  }

  /** The bot has fallen silent. */
  saidAll() {
    this.#answer = null;
  }

  /**
   * How long the user waited for the latest answer.
   *
   * @param seconds From the user's last word to the bot's first sound here; null where the page
   *   could not listen, then the bot's own parts make the sum.
   * @param parts What the bot measured of it: [{key, seconds}].
   */
  waited(seconds, parts) {
    const items = this.#list.querySelectorAll("li.bot");
    const item = items[items.length - 1];
    if (!item || item.querySelector(".latency")) return;
    const stages = Object.fromEntries(ORDER.map((name) => [name, 0]));
    for (const part of parts) stages[STAGES[part.key] ?? "travel"] += part.seconds;
    const sum = Object.values(stages).reduce((a, b) => a + b, 0);
    const total = seconds ?? sum;
    stages.travel += Math.max(0, total - sum);
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.setAttribute("role", "img");
    const words = ORDER.filter((name) => stages[name] >= 0.0005).map(
      (name) => `${NAMES[name]} ${milliseconds(stages[name])}`,
    );
    bar.setAttribute("aria-label", words.join(", "));
    bar.title = words.join("\n");
    for (const name of ORDER) {
      const piece = span(name);
      piece.style.flexGrow = stages[name];
      if (stages[name] > 0) bar.append(piece);
    }
    const line = document.createElement("div");
    line.className = "latency";
    line.append(span("", `${total.toFixed(2)} s`), bar);
    item.append(line);
    this.#waits.push(total);
    this.#show();
  }

  /** "0.71 s to answer, median of 4", or nothing yet. */
  get summary() {
    if (!this.#waits.length) return "";
    const sorted = [...this.#waits].sort((a, b) => a - b);
    const median = sorted[Math.floor((sorted.length - 1) / 2)];
    return `${median.toFixed(2)} s to answer` + (sorted.length > 1 ? `, median of ${sorted.length}` : "");
  }

  #add(who, name) {
    const item = document.createElement("li");
    item.className = who;
    const bubble = document.createElement("div");
    bubble.className = "bubble";
    item.append(span("visually-hidden", `${name}: `), bubble);
    this.#list.append(item);
    return { item, bubble };
  }

  #show() {
    this.#list.lastElementChild?.scrollIntoView({ block: "nearest" });
  }
}

const milliseconds = (seconds) => `${Math.round(seconds * 1000)} ms`;

function span(className, text = "") {
  const element = document.createElement("span");
  element.className = className;
  element.append(text);
  return element;
}

function note(text) {
  const element = document.createElement("div");
  element.className = "note";
  element.append(text);
  return element;
}
