// Nodemailer's smtp-server as a peer: node nodemailer_peer.js '{"key", "cert", "log", ...}'.
// Says its port on standard output, appends one JSON line a message to the log before it answers,
// and ends with its standard input.
"use strict";
const fs = require("fs");
const { SMTPServer } = require("smtp-server");

const options = JSON.parse(process.argv[2]);

const server = new SMTPServer({
  key: options.key,
  cert: options.cert,
  secure: options.secure || false,
  authMethods: options.authMethods || ["PLAIN", "LOGIN"],
  authOptional: !options.user,
  disabledCommands: options.key ? [] : ["STARTTLS"],
  disableReverseLookup: true,
  onAuth(auth, session, callback) {
    if (auth.username === options.user && auth.password === options.password) {
      callback(null, { user: auth.username });
    } else {
      callback(new Error("Invalid username or password"));
    }
  },
  onRcptTo(address, session, callback) {
    const [code, text] = (options.refuse || {})[address.address] || [];
    callback(code ? Object.assign(new Error(text), { responseCode: code }) : null);
  },
  onData(stream, session, callback) {
    const chunks = [];
    stream.on("data", (chunk) => chunks.push(chunk));
    stream.on("end", () => {
      const arrival = {
        sender: session.envelope.mailFrom.address || "",
        recipients: session.envelope.rcptTo.map((to) => to.address),
        content: Buffer.concat(chunks).toString("base64"),
        is_tls: session.secure,
        user: session.user || null,
      };
      fs.appendFileSync(options.log, JSON.stringify(arrival) + "\n");
      callback(null, "OK: queued as " + session.id);
    });
  },
});
server.on("error", () => {});
server.listen(0, "127.0.0.1", () => console.log(server.server.address().port));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
