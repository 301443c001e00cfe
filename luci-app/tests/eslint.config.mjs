// LuCI's globals; a script is the body of a function, and its 'require' lines bring more names.

const NAMES = [ '_', 'E', 'L', 'api', 'baseclass', 'dom', 'form', 'logic', 'poll', 'rpc', 'rules', 'uci', 'ui', 'view', 'widgets' ];
const BROWSER = [ 'URL', 'document', 'performance', 'window' ];
const NODE = [ 'Buffer', 'URL', 'process', 'setTimeout' ];
const globals = names => Object.fromEntries(names.map(name => [ name, 'readonly' ]));
const rules = {
	'array-callback-return': 'error', 'consistent-return': 'off', 'eqeqeq': 'off', 'no-const-assign': 'error', 'no-dupe-args': 'error', 'no-dupe-keys': 'error',
	'no-fallthrough': 'error', 'no-implicit-globals': 'off', 'no-redeclare': 'error', 'no-self-assign': 'error', 'no-shadow': 'off', 'no-undef': 'error',
	'no-unreachable': 'error', 'no-unused-vars': 'error', 'no-var': 'error', 'prefer-const': 'error', 'use-isnan': 'error', 'valid-typeof': 'error'
};

export default [
	{
		files: [ '**/htdocs/**/*.js' ],
		languageOptions: { ecmaVersion: 2022, sourceType: 'script', parserOptions: { ecmaFeatures: { globalReturn: true } }, globals: globals([ ...NAMES, ...BROWSER ]) },
		rules
	},
	{
		files: [ '**/tests/*.mjs' ],
		languageOptions: { ecmaVersion: 2022, sourceType: 'module', globals: globals([ ...NODE, 'document', 'L' ]) },
		rules
	}
];
