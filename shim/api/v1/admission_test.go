package shimv1

import (
	"strings"
	"testing"
)

func TestAdmissionComesBackAsItWas(t *testing.T) {
	for _, a := range []Admission{{}, {ExpectedContainers: 3}, {AnswerEarly: true, ExpectedContainers: 1}, {AnswerEarly: true, ExpectedContainers: maxExpected}} {
		b, err := a.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeAdmission(b); err != nil || got != a {
			t.Errorf("%+v came back as %+v, %v", a, got, err)
		}
	}
}

func TestAdmissionIsReadFromTheDaemonsRecord(t *testing.T) {
	got, err := DecodeAdmission([]byte(`{"migration": "m-1", "containers": ["c1"], "answer_early": true, "expected_containers": 2}`))
	if err != nil || got != (Admission{AnswerEarly: true, ExpectedContainers: 2}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAdmissionThatMakesNoSenseIsRefused(t *testing.T) {
	for _, text := range []string{
		"{", "[]", `"x"`, `{"answer_early": true}`, `{"answer_early": 1}`, `{"expected_containers": -1}`, `{"expected_containers": 257}`,
		`{"answer_early": true, "expected_containers": 1e9}`, `{"expected_containers": 1}{}`, strings.Repeat(" ", MaxAdmission+1),
	} {
		if a, err := DecodeAdmission([]byte(text)); err == nil {
			t.Errorf("%.60s was read as %+v", text, a)
		}
	}
}

func FuzzDecodeAdmission(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"answer_early":true,"expected_containers":2}`, `{"expected_containers":-5}`, "null"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeAdmission(b)
		if err != nil {
			if a != (Admission{}) {
				t.Errorf("refused, but says %+v", a)
			}
			return
		}
		if a.AnswerEarly && (a.ExpectedContainers < 1 || a.ExpectedContainers > maxExpected) {
			t.Errorf("accepted %+v", a)
		}
		again, err := a.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := DecodeAdmission(again); err != nil || back != a {
			t.Errorf("%+v came back as %+v, %v", a, back, err)
		}
	})
}
