// @ts-check
// The types of what the server and the modules here exchange. No code.

/**
 * The place of a line: `n` is the number of the last event that the lines so far cover, `at` when that event came, in
 * seconds after the turn began.
 * @typedef {{n: number, at: number}} Place
 */

/**
 * One line of the answer's stream.
 * @typedef {{type: "accepted", turn: string, age_s: number}
 *   | {type: "queued", ahead: number, wait_s: number | null} & Place
 *   | {type: "started", queued_s: number} & Place
 *   | {type: "reasoning", text: string} & Place
 *   | {type: "answer", keep: number, blocks: string[]} & Place
 *   | {type: "tool_call", index: number, name: string | null, arguments: string} & Place
 *   | {type: "end", html: string, question: string, title: string, complete: boolean}} StreamEvent
 */

/**
 * What became of the conversations of a file.
 * @typedef {{imported: {id: string, title: string, unknown_marking: string | null}[], refused: {title: string, reason: string}[]}} Imported
 */

/** @typedef {"idle" | "waiting" | "reading" | "thinking" | "answering" | "stopping" | "reconnecting"} Phase */
/** @typedef {"low" | "medium" | "high"} Effort */

/**
 * Reads one stream: hands over each event as it comes, and ends early when the signal says so.
 * @typedef {(receive: (event: StreamEvent) => void, signal: AbortSignal) => Promise<void>} Read
 */

/**
 * What the server says about the room of a question. `sums_up`: a summary would make room.
 * @typedef {{line: string, tight: boolean, problem: string | null, sums_up: boolean,
 *   leave_out: {reads_from: string, words: string} | null}} Room
 */

/**
 * A text of the library.
 * @typedef {{title: string, text: string, shared: boolean}} Prompt
 */

/**
 * How the answers of a conversation are drawn. What is absent is left to the model.
 * @typedef {{sampling: Record<string, number>, without_instructions?: boolean}} Choices
 */

/**
 * A file that waits for its question. `tokens` is null where nobody could count them.
 * @typedef {{id: string, name: string, size: string, what: string, tokens: number | null, notes: string[],
 *   address: string, marking: string | null}} AttachedFile
 */

export {};
