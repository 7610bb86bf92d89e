// @ts-check
// The shapes that travel between the server and the modules here. No code.

/**
 * Where a line stands: `n` is the last event of the turn that the lines so far cover, `at` when it came, in seconds
 * after the turn began.
 * @typedef {{n: number, at: number}} Place
 */

/**
 * One line of the answer's stream.
 * @typedef {{type: "accepted", turn: string, age_s: number}
 *   | {type: "started", queued_s: number} & Place
 *   | {type: "reasoning", text: string} & Place
 *   | {type: "answer", keep: number, blocks: string[]} & Place
 *   | {type: "tool_call", index: number, name: string | null, arguments: string} & Place
 *   | {type: "end", html: string, title: string, complete: boolean}} StreamEvent
 */

/** @typedef {"idle" | "waiting" | "reading" | "thinking" | "answering" | "stopping" | "reconnecting"} Phase */
/** @typedef {"low" | "medium" | "high"} Effort */

/**
 * Reads one stream: hands over each event as it comes, and ends early when the signal says so.
 * @typedef {(receive: (event: StreamEvent) => void, signal: AbortSignal) => Promise<void>} Read
 */

export {};
