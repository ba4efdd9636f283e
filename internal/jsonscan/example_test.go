package jsonscan_test

import (
	"fmt"

	"github.com/inferweir/weir/internal/jsonscan"
)

func ExamplePaths_Find() {
	paths, err := jsonscan.Compile("/model", "/max_tokens", "/stream") // once
	if err != nil {
		fmt.Println(err)
		return
	}
	var room [3]jsonscan.Value // on the stack
	values, err := paths.Find(room[:0], []byte(`{"stream": true, "\u006dodel": "weir-story", "messages": []}`), jsonscan.DefaultDepth)
	if err != nil {
		fmt.Println(err)
		return
	}
	model, _ := values[0].Text()
	stream, _ := values[2].Bool()
	fmt.Println(model, values[1].Kind(), stream)
	// Output: weir-story missing true
}

func ExampleAppendCanonical() {
	ignore, err := jsonscan.Compile("/user")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, body := range []string{`{"seed": 9007199254740993, "prompt": "caf\u00e9"}`, `{"user":"bob","prompt":"café","seed":9007199254740993}`} {
		form, err := jsonscan.AppendCanonical(nil, []byte(body), ignore, 0)
		fmt.Println(string(form), err)
	}
	// Output:
	// {"prompt":"café","seed":9007199254740993} <nil>
	// {"prompt":"café","seed":9007199254740993} <nil>
}
