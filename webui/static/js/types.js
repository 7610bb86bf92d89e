// @ts-check
// The shapes that travel between the server and the modules here. No code.

/**
 * One line of the answer's stream.
 * @typedef {{type: "accepted"}
 *   | {type: "started", queued_s: number}
 *   | {type: "reasoning", text: string}
 *   | {type: "answer", keep: number, blocks: string[]}
 *   | {type: "tool_call", index: number, name: string | null, arguments: string}
 *   | {type: "end", html: string, title: string, complete: boolean}} StreamEvent
 */

/** @typedef {"idle" | "waiting" | "reading" | "thinking" | "answering" | "stopping"} Phase */
/** @typedef {"low" | "medium" | "high"} Effort */

export {};
