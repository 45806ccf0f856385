package byhand

import "testing"

func TestWhatRuncQuotesIsNotInTheGist(t *testing.T) {
	const said = `time="2026-11-29T18:16:05Z" level=warning msg="443:(00.1) Dumping"
runc: it broke
time="2026-11-29T18:16:05Z" level=error msg="criu failed: type DUMP errno 0"
`
	const want = `runc: it broke; time="2026-11-29T18:16:05Z" level=error msg="criu failed: type DUMP errno 0"`
	if got := gist(said); got != want {
		t.Errorf("%q", got)
	}
}
