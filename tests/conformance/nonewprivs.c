/* Tells as whom it runs: set-user-ID, it shows whether that works. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	printf("Effective uid: %d\n", (int)geteuid());
	return 0;
}
