// Minifies as Douglas Crockford's jsmin does, which OpenWrt's build runs over every script: what it takes for a
// regular expression, and which line ends it drops, decides whether a script survives.

const END = '';
const isWord = c => /[A-Za-z0-9_$\\]/.test(c) || c > '~';

/** The minified script; throws where jsmin would give up. */
export function minify(source) {
	let at = 0, out = '', a = END, b = END, x = END, y = END;
	const plain = c => c == '\r' ? '\n' : (c == END || c == '\n' || c >= ' ' ? c : ' ');
	const get = () => plain(at < source.length ? source[at++] : END);
	const peek = () => plain(source[at] ?? END);

	function next() {
		let c = get();

		if (c == '/' && peek() == '/')
			do c = get(); while (c > '\n');
		else if (c == '/' && peek() == '*') {
			const close = source.indexOf('*/', at + 1);

			if (close < 0)
				throw new Error('unterminated comment');

			at = close + 2;
			c = ' ';
		}

		y = x;
		x = c;

		return c;
	}

	function text() {
		const quote = a;

		for (;;) {
			out += a;
			a = at < source.length ? source[at++] : END;
			if (a == quote)
				return;
			if (a == '\\') {
				out += a;
				a = get();
			}
			if (a == END)
				throw new Error('unterminated text');
		}
	}

	function pattern() {
		out += a;
		if (a == '/' || a == '*')
			out += ' ';
		out += b;

		for (;;) {
			a = get();
			if (a == '[') {
				for (;;) {
					out += a;
					a = get();
					if (a == ']')
						break;
					if (a == '\\') {
						out += a;
						a = get();
					}
					if (a == END)
						throw new Error('unterminated set in a regular expression');
				}
			}
			else if (a == '/') {
				if (peek() == '/' || peek() == '*')
					throw new Error('a comment behind a regular expression');
				break;
			}
			else if (a == '\\') {
				out += a;
				a = get();
			}
			if (a == END)
				throw new Error('unterminated regular expression');
			out += a;
		}

		b = next();
	}

	function act(step) {
		if (step == 1) {
			out += a;
			if ((y == '\n' || y == ' ') && '+-*/'.includes(a) && '+-*/'.includes(b) && a != END && b != END)
				out += y;
		}
		if (step <= 2) {
			a = b;
			if (a != END && '\'"`'.includes(a))
				text();
		}

		b = next();
		if (b == '/' && '(,=:[!&|?+-~*/{}\n'.includes(a))
			pattern();
	}

	a = '\n';
	act(3);

	while (a != END) {
		if (a == ' ')
			act(isWord(b) ? 1 : 2);
		else if (a == '\n')
			act(b == ' ' ? 3 : (b != END && '{[(+-!~'.includes(b) || isWord(b) ? 1 : 2));
		else if (b == ' ')
			act(isWord(a) ? 1 : 3);
		else if (b == '\n')
			act('}])+-"\'`'.includes(a) || isWord(a) ? 1 : 3);
		else
			act(1);
	}

	return out;
}
