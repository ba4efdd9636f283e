package builtin_test

import (
	"context"
	"fmt"
	"log"

	"github.com/inferweir/weir/builtin"
)

func ExampleModels_Story() {
	models, err := builtin.New()
	if err != nil {
		log.Fatal(err)
	}
	told, err := models.Story(context.Background(), "Write a story about an owl named Zoe", builtin.StoryOptions{
		Temperature: 0, // the likeliest words
		Stop:        []string{" One morning"},
	}, func(piece string) error {
		fmt.Print(piece)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println()
	fmt.Println(told.Finish, told.Usage.Input)
	// Output:
	// Once upon a time there was a clever owl named Zoe. Zoe liked to play in the garden.
	// stop 12
}
