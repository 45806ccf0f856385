/* Makes a program believe that nobody runs it, who is in truth root: see disguise in postgres.go. */
unsigned getuid(void) { return 65534; }
unsigned geteuid(void) { return 65534; }
